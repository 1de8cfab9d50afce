//! The cockpit: a terminal program over the record of a run and the commands to its engine.
//!
//! `model` is the state, `update` takes messages in and gives effects out, `view` draws; none of them does I/O beyond
//! reading the record that is shown. `event_loop` is the loop around them, `effect_runner` carries
//! effects out. It knows the model, and the services and the host that it is handed; never the engine.

mod case_report;
mod clock;
pub mod code_watch;
pub mod console;
mod derive;
pub mod effect_runner;
pub mod errors;
pub mod event_loop;
#[cfg(test)]
mod fixture;
pub mod green_diff;
pub mod host;
pub mod host_state;
mod input;
pub mod keymap;
pub mod layout;
pub mod logs;
pub mod look;
pub mod model;
pub mod msg;
mod notices;
mod notify;
pub mod overlay;
pub mod past_runs;
pub mod prompt;
mod record;
mod record_logs;
pub mod replay;
pub mod role;
mod room;
pub mod run_node;
pub mod screen;
pub mod services;
mod source_place;
pub mod theme;
pub mod tree;
pub mod update;
mod user_program;
pub mod view;

use vmdeck_model::key::{Key, Kind};

/// The rows of `[cockpit]`; those of `[keys]` are in [`keymap::KEYS`].
pub const KEYS: &[Key] = &[
    Key {
        path: "cockpit.theme",
        kind: Kind::Text,
        default: Some("\"auto\""),
        doc: "auto (dark or light, as the terminal is), dark, light, high-contrast, colour-blind, ansi16, mono, the name of your own theme, or a file",
    },
    Key {
        path: "cockpit.symbols",
        kind: Kind::Choice(&["auto", "unicode", "ascii"]),
        default: Some("\"auto\""),
        doc: "whether to draw frames and signs in Unicode or in ASCII; auto: Unicode where the locale is UTF-8",
    },
    Key {
        path: "cockpit.mouse",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "whether the mouse is on from the start",
    },
    Key {
        path: "cockpit.notify",
        kind: Kind::Choice(&["auto", "bell", "osc9", "osc777", "off"]),
        default: Some("\"auto\""),
        doc: "how you are notified that a boot or run has ended while another window has focus",
    },
    Key {
        path: "cockpit.pause",
        kind: Kind::Duration,
        default: Some("\"2m\""),
        doc: "how long a failed guest is held for inspection before it is taken down; 0s = not at all",
    },
];
