//! How much room the terminal gives, and what that means for the panes.

use super::model::Model;

/// Below this many columns or rows only the pane with the keys is shown.
pub(crate) const SMALL: (u16, u16) = (50, 12);
/// From this many columns on, the run and the logs are side by side.
pub(crate) const WIDE: u16 = 100;
/// From this many rows on, the lower row of panes is shown too.
const TALL: u16 = 32;

/// Returns whether the lower row of panes is shown: lock, preflight and events.
pub(crate) fn has_lower_panes(model: &Model) -> bool {
    !model.panes.zoom && model.size.0 >= WIDE && model.size.1 >= TALL
}
