//! What reports need to know of the plan besides the events: where each case was written, and what each guest is made of.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use vmdeck_model::{
    event::PlannedGuest,
    ids::{CaseId, GuestId, SuiteId},
    plan::Plan,
    suite::{CasePlace, Suite},
};

/// The plan, looked up by name.
#[derive(Clone, Debug, Default)]
pub struct PlanIndex {
    places: HashMap<(SuiteId, CaseId), CasePlace>,
    images: HashMap<GuestId, String>,
    /// Where each guest has the source, and where it comes from.
    sources: HashMap<GuestId, (String, PathBuf)>,
}

/// Where a case was written, for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownPlace {
    /// The file; relative to the folder of the repository where that is known, else to the current one.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for ShownPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl PlanIndex {
    /// Returns the index of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut out = Self::default();
        for job in &plan.jobs {
            for (_, suite, case) in job.cases() {
                out.places.insert((suite.id.clone(), case.id.clone()), case.place.clone());
            }
            for guest in job.guests() {
                if let Some(source) = &guest.source {
                    out.sources.insert(guest.id.clone(), (source.to.clone(), source.path.clone()));
                }
                let path = |key: &str| guest.options.path(key).map(|path| path.display().to_string());
                let text = |key: &str| guest.options.text(key).map(str::to_owned);
                let image = path("image").or_else(|| text("image")).or_else(|| path("kernel"));
                if let Some(image) = image.or_else(|| guest.machine.clone()) {
                    out.images.insert(guest.id.clone(), image);
                }
            }
        }
        out
    }

    /// Returns what is known of cases without a plan: where they were written.
    pub fn of_suites(suites: &[Suite]) -> Self {
        let places = suites
            .iter()
            .flat_map(|suite| suite.cases.iter().map(|case| ((suite.id.clone(), case.id.clone()), case.place.clone())));
        Self { places: places.collect(), ..Self::default() }
    }

    /// Returns where a case was written; `None` = not in a file.
    pub fn place(&self, suite: &SuiteId, case: &CaseId) -> Option<ShownPlace> {
        let of = |case: &CaseId| self.places.get(&(suite.clone(), case.clone()));
        // One that was found is where that stands for which it was.
        let place = of(case).or_else(|| of(&case.parent()?)).filter(|place| place.line > 0)?;
        Some(ShownPlace { file: relative(&place.file), line: place.line })
    }

    /// Returns a file of a guest as the readers of a report can follow it: the file of the source where it is one, else as it is.
    pub fn file_of(&self, guest: &GuestId, file: &str) -> String {
        let Some((to, from)) = self.sources.get(guest) else { return file.to_owned() };
        let below = match Path::new(file).strip_prefix(to) {
            Ok(below) => below,
            Err(_) if Path::new(file).is_relative() => Path::new(file),
            Err(_) => return file.to_owned(),
        };
        let is_inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let own = from.join(below);
        if is_inside && own.is_file() { relative(&own.display().to_string()) } else { file.to_owned() }
    }

    /// Returns what a guest boots from, as the config says it.
    pub fn image(&self, guest: &GuestId) -> Option<&str> {
        self.images.get(guest).map(String::as_str)
    }
}

/// Returns a path as the readers of a report can follow it.
fn relative(file: &str) -> String {
    let Ok(full) = std::path::absolute(file) else { return file.to_owned() };
    let workspace = std::env::var_os("GITHUB_WORKSPACE").map(PathBuf::from);
    let bases = workspace.into_iter().chain(std::env::current_dir().ok());
    let inner = bases.into_iter().find_map(|base| full.strip_prefix(base).ok().map(Path::to_owned));
    inner.map_or_else(|| file.to_owned(), |path| path.display().to_string())
}

/// Returns the guests of a run as a person reads them: each with its backend, and how many machines it has where these are several.
pub(super) fn planned_names(guests: &[PlannedGuest]) -> Vec<String> {
    let name = |guest: &PlannedGuest| {
        let further = guests.iter().filter(|other| other.one_more_of.as_ref() == Some(&guest.guest)).count();
        let machines = if further > 0 { format!(", {} machines", further + 1) } else { String::new() };
        format!("{} ({}{machines})", guest.guest, guest.backend)
    };
    guests.iter().filter(|guest| guest.one_more_of.is_none()).map(name).collect()
}
