//! The roles that things on the screen have; a theme gives each a style.
//!
//! The word of a role is its table and key in a theme file.

macro_rules! roles {
    ($($role:ident $word:literal;)+) => {
        /// The role that something has on the screen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each is named by its word in the theme files")]
        pub enum StyleRole { $($role),+ }

        impl StyleRole {
            /// Every role.
            pub const ALL: &[StyleRole] = &[$(StyleRole::$role),+];

            /// Returns the word used in a theme file, such as `state.bad`.
            pub fn as_str(self) -> &'static str {
                match self { $(StyleRole::$role => $word),+ }
            }
        }
    };
}

roles! {
    UiText "ui.text";
    UiDim "ui.dim";
    UiBorder "ui.border";
    UiBorderFocus "ui.border_focus";
    UiTitle "ui.title";
    UiTitleFocus "ui.title_focus";
    UiSelection "ui.selection";
    UiMark "ui.mark";
    UiKey "ui.key";
    UiHeader "ui.header";
    UiBadge "ui.badge";
    UiDanger "ui.danger";
    UiToast "ui.toast";
    StateOk "state.ok";
    StateBusy "state.busy";
    StateIdle "state.idle";
    StateWarn "state.warn";
    StateBad "state.bad";
    StateInfra "state.infra";
    StateFlaky "state.flaky";
    StateKept "state.kept";
    LogTime "log.time";
    LogError "log.error";
    LogWarn "log.warn";
    LogMatch "log.match";
    LogMatchNow "log.match_now";
    LogBookmark "log.bookmark";
    LogCursor "log.cursor";
    LogGuest1 "log.guest1";
    LogGuest2 "log.guest2";
    LogGuest3 "log.guest3";
    LogGuest4 "log.guest4";
    LogGuest5 "log.guest5";
    LogGuest6 "log.guest6";
    GaugeFull "gauge.full";
    GaugeUsual "gauge.usual";
    GaugeOver "gauge.over";
}

impl StyleRole {
    /// The roles of guests in the merged log; guests take them in turn.
    pub const GUESTS: [StyleRole; 6] = [
        StyleRole::LogGuest1,
        StyleRole::LogGuest2,
        StyleRole::LogGuest3,
        StyleRole::LogGuest4,
        StyleRole::LogGuest5,
        StyleRole::LogGuest6,
    ];

    /// Returns the role of a word.
    pub fn parse(word: &str) -> Option<Self> {
        StyleRole::ALL.iter().copied().find(|role| role.as_str() == word)
    }
}
