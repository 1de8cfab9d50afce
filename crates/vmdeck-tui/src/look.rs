//! What a person chose of the cockpit's looks, kept from one cockpit to the next: state, not config.

use serde::{Deserialize, Serialize};

/// The value of `cockpit.theme` and `cockpit.symbols` that leaves the choice to what the terminal is.
pub const AUTO: &str = "auto";
/// The least and the most that the run pane has of the columns, per cent.
pub const SHARES: (u16, u16) = (20, 80);

/// A theme that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenTheme {
    /// The name of the theme.
    pub name: String,
    /// What the config said then; where it says something else now, that counts.
    pub config: String,
}

/// A line between two panes that can be dragged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The line between the run and the logs.
    RunAndLogs,
    /// The line below the machines.
    Machines,
}

/// The order of the cases in the run pane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseOrder {
    /// The order in which they run.
    #[default]
    Planned,
    /// Those that failed come first.
    FailedFirst,
    /// The slowest come first.
    SlowestFirst,
}

impl CaseOrder {
    /// Returns the next one, round and round.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            CaseOrder::Planned => CaseOrder::FailedFirst,
            CaseOrder::FailedFirst => CaseOrder::SlowestFirst,
            CaseOrder::SlowestFirst => CaseOrder::Planned,
        }
    }

    /// Returns the order in words.
    pub fn word(self) -> &'static str {
        match self {
            CaseOrder::Planned => "as planned",
            CaseOrder::FailedFirst => "failed first",
            CaseOrder::SlowestFirst => "slowest first",
        }
    }
}

/// What was chosen; see the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptLook {
    /// The theme.
    pub theme: Option<ChosenTheme>,
    /// How much of the columns the run pane has beside the logs, per cent.
    pub run_share: u16,
    /// How many rows the machines pane has more than it needs, or fewer.
    pub machine_rows: i16,
    /// The order of the cases in the run pane.
    pub order: CaseOrder,
}

impl Default for KeptLook {
    fn default() -> Self {
        Self { theme: None, run_share: 45, machine_rows: 0, order: CaseOrder::Planned }
    }
}

impl KeptLook {
    /// Returns the theme for what the config says: what was chosen last while it said the same, else that; `fitting` = what fits the
    /// terminal.
    pub fn theme_for(&self, config: &str, fitting: &str) -> String {
        match &self.theme {
            Some(chosen) if chosen.config == config => chosen.name.clone(),
            _ if config == AUTO => fitting.to_owned(),
            _ => config.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_counts_until_the_config_says_something_else() {
        let look = |name: &str, config: &str| KeptLook {
            theme: Some(ChosenTheme { name: name.into(), config: config.into() }),
            ..KeptLook::default()
        };
        for (look, config, theme) in [
            (KeptLook::default(), "auto", "light"),
            (KeptLook::default(), "mono", "mono"),
            (look("mono", "auto"), "auto", "mono"),
            (look("mono", "auto"), "dark", "dark"),
            (look("mono", "dark"), "auto", "light"),
        ] {
            assert_eq!(look.theme_for(config, "light"), theme, "{look:?} {config}");
        }
    }
}
