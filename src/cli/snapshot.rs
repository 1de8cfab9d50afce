//! The arguments of `vmdeck snapshot`.

use clap::Subcommand;
use vmdeck_model::quantity::parse_size;

/// The subcommands of `vmdeck snapshot`.
#[derive(Subcommand, Debug)]
pub enum SnapshotSub {
    /// List the snapshots, the one that was used last first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a snapshot, and those that stand on its disk
    Rm {
        /// Key in `vmdeck snapshot list`, or the beginning of it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        key: String,
    },
    /// Remove snapshots that nothing uses: all, or the oldest until the rest fits
    Prune {
        /// Keep as many of those that were used last as fit into this size
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: Option<u64>,
    },
}
