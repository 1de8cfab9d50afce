//! The arguments of `vmdeck merge` and `vmdeck times`.

use clap::Args;
use std::path::PathBuf;

/// The arguments of `vmdeck merge`.
#[derive(Args, Debug, Clone)]
pub struct MergeArgs {
    /// Folders of records, or the beginnings of runs' ids
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// Folder of the merged record; default: `.vmdeck/runs/<time>-<id>`
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Also write the report in JUnit format to this file
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Also add how long cases and boots took to this file, as `vmdeck times` does
    #[arg(long, value_name = "FILE")]
    pub times: Option<PathBuf>,
    /// How many records there must be; with another number the result is not green
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub expect: Option<u32>,
    /// Link the logs in place of copying them, where that can be
    #[arg(long)]
    pub link: bool,
    /// Merge records of different plans, revisions or runs of CI; of one shard that is there twice the later record counts
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `vmdeck times`.
#[derive(Args, Debug, Clone)]
pub struct TimesArgs {
    /// Folders of records, or the beginnings of runs' ids
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// File that is added to, or made
    #[arg(short = 'o', long = "output", value_name = "FILE", default_value = "vmdeck-times.json")]
    pub output: PathBuf,
}
