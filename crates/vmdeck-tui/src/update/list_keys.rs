//! The keys that move in a list that lies over the panes.

use crossterm::event::{KeyCode, KeyEvent};

/// How far a page goes.
const PAGE: usize = 10;

/// Returns the current row after a key, of so many rows; a key that moves nothing leaves it.
pub(super) fn moved(at: usize, rows: usize, key: KeyEvent) -> usize {
    let last = rows.saturating_sub(1);
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => (at + 1).min(last),
        KeyCode::PageUp => at.saturating_sub(PAGE),
        KeyCode::PageDown => (at + PAGE).min(last),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => last,
        _ => at,
    }
}
