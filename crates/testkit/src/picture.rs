//! A screen of a terminal as an SVG, for documents.

use std::{fmt::Write, num::NonZero};
use vt100::{Cell, Color, Parser};

/// The size of a cell, in SVG units.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d5d8df";
/// The sixteen colours of a terminal.
const COLOURS: [&str; 16] = [
    "#16181d", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d5d8df", "#5c6370", "#ef7b85",
    "#a9d48a", "#f0cd8c", "#74bfff", "#d38ae8", "#69c7d3", "#ffffff",
];

/// Draws what a terminal shows; `screen` = its rows with their escape sequences, `text` = the same rows as they shall read.
pub fn svg(screen: &str, text: &str, columns: u16, rows: u16) -> String {
    let size = |n: u16| NonZero::new(n).expect("a terminal has a size");
    let mut parser = Parser::new(size(rows), size(columns), 0);
    parser.process(screen.trim_end_matches('\n').replace('\n', "\r\n").as_bytes());
    let (width, height) = (f32::from(columns) * WIDTH + 16.0, f32::from(rows) * HEIGHT + 16.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, Menlo, Consolas, \
         'DejaVu Sans Mono', monospace\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (row, line) in (0..rows).zip(text.lines().chain(std::iter::repeat(""))) {
        let mut chars = line.chars();
        let cells: Vec<(String, char)> = (0..columns)
            .map(|column| {
                let style = parser.screen().cell(row, column).map(style).unwrap_or_default();
                (style, chars.next().unwrap_or(' '))
            })
            .collect();
        let mut column = 0;
        for run in cells.chunk_by(|a, b| a.0 == b.0) {
            draw(&mut out, row, column, run);
            column += run.len();
        }
    }
    out + "</svg>\n"
}

/// Draws cells of one style.
fn draw(out: &mut String, row: u16, column: usize, run: &[(String, char)]) {
    let mut style = run[0].0.split('|');
    let (fill, ground, weight) = (style.next().unwrap_or(FOREGROUND), style.next().unwrap_or_default(), style.next());
    #[expect(clippy::cast_precision_loss, reason = "columns of a terminal are few")]
    let (x, length) = (column as f32 * WIDTH + 8.0, run.len() as f32 * WIDTH);
    let y = f32::from(row) * HEIGHT + 8.0;
    if !ground.is_empty() {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"{HEIGHT:.0}\" fill=\"{ground}\"/>"
        );
    }
    let text: String = run.iter().map(|(_, c)| *c).collect();
    if text.trim().is_empty() {
        return;
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let weight =
        weight.filter(|word| !word.is_empty()).map(|word| format!(" font-weight=\"{word}\"")).unwrap_or_default();
    let y = y + 13.0;
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.0}\" textLength=\"{length:.1}\" xml:space=\"preserve\" fill=\"{fill}\"{weight}>{text}</text>"
    );
}

/// Returns the look of a cell: its colour, its ground if it has one, its weight.
fn style(cell: &Cell) -> String {
    let (mut fill, mut ground) = (colour(cell.fgcolor(), FOREGROUND), colour(cell.bgcolor(), ""));
    if cell.inverse() {
        let over = if ground.is_empty() { BACKGROUND.to_owned() } else { ground };
        (fill, ground) = (over, fill);
    }
    format!("{fill}|{ground}|{}", if cell.bold() { "bold" } else { "" })
}

fn colour(colour: Color, usual: &str) -> String {
    match colour {
        Color::Default => usual.to_owned(),
        Color::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
        Color::Idx(n @ 0..=15) => COLOURS[usize::from(n)].to_owned(),
        // A cube of 6 colours each way, then greys.
        Color::Idx(n @ 16..=231) => {
            let level = |part: u8| if part == 0 { 0 } else { 55 + part * 40 };
            let n = n - 16;
            format!("#{:02x}{:02x}{:02x}", level(n / 36), level(n / 6 % 6), level(n % 6))
        }
        Color::Idx(n) => {
            let grey = 8 + (n - 232) * 10;
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}
