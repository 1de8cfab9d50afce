//! The events pane: what vmdeck itself does, in tui-logger's widget. Guests' logs are not kept there: it may lose lines.

use super::paint::{frame_of, style};
use crate::{
    model::{Model, Pane},
    role::StyleRole,
};
use ratatui::{Frame, layout::Rect};
use tui_logger::{TuiLoggerLevelOutput, TuiLoggerSmartWidget, TuiLoggerWidget};

/// Draws the events pane.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let block = frame_of(model, Pane::Events, Vec::new());
    let inner = block.inner(area).intersection(frame.area());
    frame.render_widget(block, area);
    if inner.width < 4 || inner.height < 2 {
        return;
    }
    if model.appearance.ascii || inner.width < 70 {
        // The smart widget's frames are box drawing, and its list of targets takes half of a narrow pane.
        let widget = TuiLoggerWidget::default()
            .style(style(model, StyleRole::UiText))
            .style_error(style(model, StyleRole::LogError))
            .style_warn(style(model, StyleRole::LogWarn))
            .output_timestamp(None)
            .output_level(Some(TuiLoggerLevelOutput::Abbreviated))
            .output_file(false)
            .output_line(false)
            .state(&model.events);
        return frame.render_widget(widget, inner);
    }
    // Its own frames have no title to lose: ours says what it is.
    let widget = TuiLoggerSmartWidget::default()
        .style(style(model, StyleRole::UiText))
        .border_style(style(model, StyleRole::UiBorder))
        .style_error(style(model, StyleRole::LogError))
        .style_warn(style(model, StyleRole::LogWarn))
        .style_info(style(model, StyleRole::UiText))
        .style_debug(style(model, StyleRole::UiDim))
        .style_trace(style(model, StyleRole::UiDim))
        .highlight_style(style(model, StyleRole::UiSelection))
        .output_timestamp(None)
        .output_level(Some(TuiLoggerLevelOutput::Abbreviated))
        .output_target(true)
        .output_file(false)
        .output_line(false)
        .title_log("")
        .title_target("")
        .state(&model.events);
    frame.render_widget(widget, inner);
}
