//! Colours by role, from `themes/*.toml`: what a theme file may say, inheriting, and fewer colours where the terminal has fewer.
//!
//! Which role a thing on the screen has is the views' matter. State is never shown by colour alone.

use super::role::StyleRole;
use ratatui::style::{Color, Modifier, Style};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};
use toml::de::{DeTable, DeValue};
use vmdeck_model::error::{Fault, Result};

/// The theme of a cockpit whose config cannot be read; `cockpit.theme` has the same default.
pub const DEFAULT: &str = "dark";

/// The built-in themes by name; the first is the default and has every role.
pub const BUILT_IN: &[(&str, &str)] = &[
    (DEFAULT, include_str!("../../../themes/dark.toml")),
    ("light", include_str!("../../../themes/light.toml")),
    ("high-contrast", include_str!("../../../themes/high-contrast.toml")),
    ("colour-blind", include_str!("../../../themes/colour-blind.toml")),
    ("ansi16", include_str!("../../../themes/ansi16.toml")),
    ("mono", include_str!("../../../themes/mono.toml")),
];

/// The tables of a theme file that hold roles.
const GROUPS: [&str; 4] = ["ui", "state", "log", "gauge"];
/// How deep themes may inherit.
const DEPTH: usize = 8;

/// How many colours the terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The terminal has no colours.
    Mono,
    /// The terminal has the sixteen ANSI colours.
    Ansi16,
    /// The terminal has the palette of 256 colours.
    Indexed,
    /// The terminal has 24-bit colours.
    True,
}

impl Depth {
    /// Returns the depth from the environment: `NO_COLOR`, `CLICOLOR_FORCE`, `COLORTERM`, `TERM`.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Self {
        let has = |name: &str, words: &[&str]| var(name).is_some_and(|v| words.iter().any(|w| v.contains(w)));
        let is_set = |name: &str| var(name).is_some_and(|value| !value.is_empty());
        let is_forced = is_set("CLICOLOR_FORCE") && var("CLICOLOR_FORCE").is_none_or(|value| value != "0");
        // Whoever wants none has none, whatever forces it.
        if is_set("NO_COLOR") || (has("TERM", &["dumb"]) && !is_forced) {
            Depth::Mono
        } else if has("COLORTERM", &["truecolor", "24bit"]) || has("TERM", &["-direct"]) {
            Depth::True
        } else if has("TERM", &["256color"]) {
            Depth::Indexed
        } else {
            Depth::Ansi16
        }
    }

    /// Returns the nearest colour that the terminal has.
    pub fn fit(self, color: Color) -> Color {
        match (self, color) {
            (Depth::Mono, _) => Color::Reset,
            (Depth::Indexed, Color::Rgb(r, g, b)) => Color::Indexed(to_256(r, g, b)),
            (Depth::Ansi16, Color::Rgb(r, g, b)) => to_16(r, g, b),
            (Depth::Ansi16, Color::Indexed(n @ 16..)) => {
                let (r, g, b) = of_256(n);
                to_16(r, g, b)
            }
            (_, color) => color,
        }
    }
}

/// The steps of the colour cube of the palette.
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

fn to_256(r: u8, g: u8, b: u8) -> u8 {
    let nearest = |v: u8| CUBE.iter().enumerate().min_by_key(|(_, c)| c.abs_diff(v)).map_or(0, |(i, _)| i);
    let cube = [nearest(r), nearest(g), nearest(b)];
    let grey_step = ((u16::from(r) + u16::from(g) + u16::from(b)) / 3).saturating_sub(8) / 10;
    let grey_step = u8::try_from(grey_step.min(23)).unwrap_or(23);
    let grey = 8 + 10 * grey_step;
    let from_cube = distance((r, g, b), (CUBE[cube[0]], CUBE[cube[1]], CUBE[cube[2]]));
    if distance((r, g, b), (grey, grey, grey)) < from_cube {
        return 232 + grey_step;
    }
    u8::try_from(16 + 36 * cube[0] + 6 * cube[1] + cube[2]).unwrap_or(7)
}

fn of_256(n: u8) -> (u8, u8, u8) {
    if n >= 232 {
        let grey = 8 + 10 * (n - 232);
        return (grey, grey, grey);
    }
    let n = usize::from(n - 16);
    (CUBE[n / 36], CUBE[n / 6 % 6], CUBE[n % 6])
}

fn to_16(r: u8, g: u8, b: u8) -> Color {
    const SIXTEEN: [(Color, (u8, u8, u8)); 16] = [
        (Color::Black, (0, 0, 0)),
        (Color::Red, (170, 0, 0)),
        (Color::Green, (0, 170, 0)),
        (Color::Yellow, (170, 120, 0)),
        (Color::Blue, (0, 0, 170)),
        (Color::Magenta, (170, 0, 170)),
        (Color::Cyan, (0, 170, 170)),
        (Color::Gray, (170, 170, 170)),
        (Color::DarkGray, (85, 85, 85)),
        (Color::LightRed, (255, 85, 85)),
        (Color::LightGreen, (85, 255, 85)),
        (Color::LightYellow, (255, 255, 85)),
        (Color::LightBlue, (85, 85, 255)),
        (Color::LightMagenta, (255, 85, 255)),
        (Color::LightCyan, (85, 255, 255)),
        (Color::White, (255, 255, 255)),
    ];
    SIXTEEN.iter().min_by_key(|(_, rgb)| distance((r, g, b), *rgb)).map_or(Color::Gray, |(color, _)| *color)
}

fn distance(a: (u8, u8, u8), b: (u8, u8, u8)) -> u32 {
    let square = |x: u8, y: u8| u32::from(x.abs_diff(y)).pow(2);
    // The eye sees green best.
    3 * square(a.0, b.0) + 6 * square(a.1, b.1) + square(a.2, b.2)
}

/// A theme, adapted to the colours of the terminal.
#[derive(Clone, Debug)]
pub struct Theme {
    /// The name of the theme.
    pub name: String,
    /// How many colours the terminal has.
    pub depth: Depth,
    styles: BTreeMap<StyleRole, Style>,
    /// The files that the theme was read from, to be watched.
    pub files: Vec<PathBuf>,
}

impl Theme {
    /// Reads a theme: a built-in name, a name in `folder`, or a path. With [`Depth::Mono`] it is always `mono`.
    pub fn load(name: &str, folder: Option<&Path>, depth: Depth) -> Result<Self> {
        let wanted = if depth == Depth::Mono { "mono" } else { name };
        let mut theme = Self { name: wanted.into(), depth, styles: BTreeMap::new(), files: Vec::new() };
        let mut chain = Vec::new();
        let mut next = Some(wanted.to_owned());
        while let Some(name) = next.take() {
            if chain.len() == DEPTH {
                return Err(Fault::user(format!("cannot use the theme `{wanted}`"))
                    .because("its `inherits` leads back to itself"));
            }
            let source = ThemeSource::find(&name, folder)?;
            theme.files.extend(source.path.clone());
            let file = File::parse(&source)?;
            next.clone_from(&file.inherits);
            chain.push((source, file));
        }
        if chain.last().is_none_or(|(source, _)| source.name != BUILT_IN[0].0) {
            let source = ThemeSource::find(BUILT_IN[0].0, None)?;
            let file = File::parse(&source)?;
            chain.push((source, file));
        }
        let mut palette = BTreeMap::new();
        for (_, file) in chain.iter().rev() {
            palette.extend(file.palette.clone());
        }
        for (source, file) in chain.iter().rev() {
            for (role, look) in &file.roles {
                theme.styles.insert(*role, look.style(&palette, depth).map_err(|why| source.fault(look.line, &why))?);
            }
        }
        Ok(theme)
    }

    /// Returns the style of a role.
    pub fn style(&self, role: StyleRole) -> Style {
        self.styles.get(&role).copied().unwrap_or_default()
    }
}

/// Returns every theme that can be chosen.
pub fn names(folder: Option<&Path>) -> Vec<String> {
    let mut out: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for entry in folder.and_then(|f| fs::read_dir(f).ok()).into_iter().flatten().flatten() {
        let path = entry.path();
        if let (Some("toml"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem()) {
            out.push(name.to_string_lossy().into_owned());
        }
    }
    out
}

/// The text of a theme and where it is from.
struct ThemeSource {
    name: String,
    path: Option<PathBuf>,
    text: String,
}

impl ThemeSource {
    fn find(name: &str, folder: Option<&Path>) -> Result<Self> {
        let path = if name.contains('/') || Path::new(name).extension().is_some_and(|e| e == "toml") {
            Some(PathBuf::from(name))
        } else {
            folder.map(|f| f.join(format!("{name}.toml"))).filter(|p| p.exists())
        };
        if let Some(path) = path {
            let text = vmdeck_files::read_text(&path, vmdeck_files::SMALL)
                .map_err(|e| Fault::user(format!("cannot read the theme `{}`", path.display())).because(e))?;
            return Ok(Self { name: name.into(), path: Some(path), text });
        }
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((name, text)) => Ok(Self { name: (*name).into(), path: None, text: (*text).into() }),
            None => Err(Fault::user(format!("unknown theme `{name}` (known: {})", names(folder).join(", ")))
                .hint("`cockpit.theme` may also be the path of a .toml file")),
        }
    }

    fn fault(&self, line: usize, why: &str) -> Fault {
        let place = self.path.as_ref().map_or_else(|| format!("{}.toml", self.name), |p| p.display().to_string());
        Fault::user(format!("cannot use the theme `{}`", self.name)).because(format!("{place}:{line}: {why}"))
    }

    fn line_of(&self, offset: usize) -> usize {
        memchr::memchr_iter(b'\n', &self.text.as_bytes()[..offset.min(self.text.len())]).count() + 1
    }
}

/// A theme file, read and not yet resolved.
#[derive(Default)]
struct File {
    inherits: Option<String>,
    palette: BTreeMap<String, Color>,
    roles: BTreeMap<StyleRole, ThemeStyle>,
}

/// The style of a role as written.
#[derive(Default)]
struct ThemeStyle {
    fg: Option<String>,
    bg: Option<String>,
    mods: Modifier,
    line: usize,
}

impl ThemeStyle {
    fn style(&self, palette: &BTreeMap<String, Color>, depth: Depth) -> std::result::Result<Style, String> {
        let mut style = Style::new().add_modifier(self.mods);
        for (text, is_fg) in [(&self.fg, true), (&self.bg, false)] {
            let Some(text) = text else { continue };
            let color = match palette.get(text) {
                Some(color) => *color,
                None => color(text)?,
            };
            let color = depth.fit(color);
            style = if is_fg { style.fg(color) } else { style.bg(color) };
        }
        Ok(style)
    }
}

fn color(text: &str) -> std::result::Result<Color, String> {
    if text == "default" {
        return Ok(Color::Reset);
    }
    Color::from_str(text).map_err(|_| {
        format!(
            "`{text}` is not a colour; write \"#rrggbb\", an ANSI name or number, \"default\" or a name of [palette]"
        )
    })
}

fn modifier(text: &str) -> std::result::Result<Modifier, String> {
    match text {
        "bold" => Ok(Modifier::BOLD),
        "dim" => Ok(Modifier::DIM),
        "italic" => Ok(Modifier::ITALIC),
        "underlined" => Ok(Modifier::UNDERLINED),
        "reversed" => Ok(Modifier::REVERSED),
        _ => Err(format!("`{text}` is not a modifier (known: bold, dim, italic, underlined, reversed)")),
    }
}

impl File {
    fn parse(source: &ThemeSource) -> Result<Self> {
        let table = DeTable::parse(&source.text)
            .map_err(|e| source.fault(source.line_of(e.span().map_or(0, |s| s.start)), e.message()))?;
        let mut file = Self::default();
        for (key, value) in table.get_ref() {
            let line = source.line_of(key.span().start);
            let fail = |why: String| source.fault(line, &why);
            let group = key.get_ref().as_ref();
            match (group, value.get_ref()) {
                ("inherits", DeValue::String(name)) => file.inherits = Some(name.to_string()),
                ("appearance" | "name", DeValue::String(_)) => {}
                ("palette", DeValue::Table(entries)) => {
                    for (name, value) in entries {
                        let line = source.line_of(name.span().start);
                        let text = value.get_ref().as_str().unwrap_or_default();
                        file.palette
                            .insert(name.get_ref().to_string(), color(text).map_err(|e| source.fault(line, &e))?);
                    }
                }
                (group, DeValue::Table(entries)) if GROUPS.contains(&group) => {
                    for (name, value) in entries {
                        let line = source.line_of(name.span().start);
                        let word = format!("{group}.{}", name.get_ref());
                        let Some(role) = StyleRole::parse(&word) else {
                            let near = nearest(&word).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                            return Err(source.fault(line, &format!("unknown role `{word}`{near}")));
                        };
                        let look = look(value.get_ref(), line).map_err(|why| source.fault(line, &why))?;
                        file.roles.insert(role, look);
                    }
                }
                (other, _) => {
                    return Err(fail(format!(
                        "unknown key `{other}` (known: inherits, appearance, [palette], [{}])",
                        GROUPS.join("], [")
                    )));
                }
            }
        }
        Ok(file)
    }
}

fn look(value: &DeValue<'_>, line: usize) -> std::result::Result<ThemeStyle, String> {
    let DeValue::Table(entries) = value else {
        return Err("a role is a table like { fg = \"blue\", mods = [\"bold\"] }".into());
    };
    let mut look = ThemeStyle { line, ..ThemeStyle::default() };
    for (key, value) in entries {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("fg", DeValue::String(text)) => look.fg = Some(text.to_string()),
            ("bg", DeValue::String(text)) => look.bg = Some(text.to_string()),
            ("mods", DeValue::Array(items)) => {
                for item in items {
                    look.mods |= modifier(item.get_ref().as_str().unwrap_or_default())?;
                }
            }
            (other, _) => return Err(format!("unknown key `{other}` (known: fg, bg, mods)")),
        }
    }
    Ok(look)
}

/// Returns the role whose word is most like this one, if one is like it.
fn nearest(word: &str) -> Option<&'static str> {
    let score = |known: &&str| strsim::jaro_winkler(known, word);
    StyleRole::ALL
        .iter()
        .map(|role| role.as_str())
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|k| score(k) > 0.75)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_theme_is_good_and_complete_at_every_depth() {
        for (name, _) in BUILT_IN {
            for depth in [Depth::Mono, Depth::Ansi16, Depth::Indexed, Depth::True] {
                let theme = Theme::load(name, None, depth).expect(name);
                assert!(StyleRole::ALL.iter().all(|role| theme.styles.contains_key(role)), "{name}");
            }
        }
    }

    #[test]
    fn the_config_s_default_is_no_theme_s_name() {
        let row = crate::KEYS.iter().find(|key| key.path == "cockpit.theme").expect("a row");
        assert_eq!(row.default, Some(format!("\"{}\"", crate::look::AUTO).as_str()));
        assert_eq!(BUILT_IN[0].0, DEFAULT);
        assert!(BUILT_IN.iter().all(|(name, _)| *name != crate::look::AUTO));
    }

    #[test]
    fn mono_and_ansi16_use_no_colour_that_is_not_there() {
        for (name, _) in BUILT_IN {
            let mono = Theme::load(name, None, Depth::Mono).expect(name);
            assert!(mono.styles.values().all(|s| s.fg.is_none_or(|c| c == Color::Reset)), "{name}");
            let few = Theme::load(name, None, Depth::Ansi16).expect(name);
            let is_few = |c: Option<Color>| !matches!(c, Some(Color::Rgb(..) | Color::Indexed(16..)));
            assert!(few.styles.values().all(|s| is_few(s.fg) && is_few(s.bg)), "{name}");
        }
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let home = tempfile::tempdir().expect("tempdir");
        for (text, wanted) in [
            ("[ui]\ntxt = { fg = \"red\" }\n", "mine.toml:2: unknown role `ui.txt`; did you mean `ui.text`?"),
            ("\n[state]\nbad = { fg = \"redd\" }\n", "mine.toml:3: `redd` is not a colour"),
            ("[state]\nbad = { fg = \"red\", mods = [\"blink\"] }\n", "mine.toml:2: `blink` is not a modifier"),
            ("[gui]\n", "mine.toml:1: unknown key `gui`"),
            ("inherits = \"mine\"\n", "leads back to itself"),
            ("inherits = \"mars\"\n", "unknown theme `mars` (known: dark, light,"),
            ("[ui]\ntext = \n", "mine.toml:2: "),
        ] {
            fs::write(home.path().join("mine.toml"), text).expect("write");
            let fault = Theme::load("mine", Some(home.path()), Depth::True).expect_err(text).to_string();
            assert!(fault.contains(wanted), "{fault}");
        }
        fs::write(home.path().join("mine.toml"), "inherits = \"light\"\n[palette]\nred = \"#ff0000\"\n")
            .expect("write");
        let theme = Theme::load("mine", Some(home.path()), Depth::True).expect("good");
        assert_eq!(theme.style(StyleRole::StateBad).fg, Some(Color::Rgb(255, 0, 0)));
        assert_eq!(theme.files.len(), 1);
    }

    #[test]
    fn depth_comes_from_the_environment_and_no_color_wins() {
        let depth = |vars: &[(&str, &str)]| {
            Depth::from_env(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(depth(&[("COLORTERM", "truecolor"), ("TERM", "xterm")]), Depth::True);
        assert_eq!(depth(&[("TERM", "screen-256color")]), Depth::Indexed);
        assert_eq!(depth(&[("TERM", "linux")]), Depth::Ansi16);
        assert_eq!(depth(&[("TERM", "dumb")]), Depth::Mono);
        assert_eq!(depth(&[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")]), Depth::Ansi16);
        assert_eq!(depth(&[("TERM", "dumb"), ("CLICOLOR_FORCE", "0")]), Depth::Mono);
        assert_eq!(depth(&[("TERM", "xterm-direct")]), Depth::True);
        assert_eq!(depth(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), Depth::Mono);
        assert_eq!(depth(&[("COLORTERM", "truecolor"), ("NO_COLOR", "1")]), Depth::Mono);
        assert_eq!(depth(&[("TERM", "xterm"), ("NO_COLOR", "")]), Depth::Ansi16);
        assert_eq!(Depth::Indexed.fit(Color::Rgb(255, 0, 0)), Color::Indexed(196));
        assert_eq!(Depth::Ansi16.fit(Color::Rgb(250, 80, 90)), Color::LightRed);
    }
}
