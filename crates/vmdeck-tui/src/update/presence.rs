//! Whether a person is in a guest: the engine must not take it away then.

use crate::{model::Model, msg::Effect};
use vmdeck_model::{command::Command, ids::GuestId};

/// Tells the engine of our run that a person is in one of its guests, or has left it.
pub(super) fn tell(model: &Model, guest: &GuestId, on: bool, out: &mut Vec<Effect>) {
    if model.is_running() && model.shown.view.guests.contains_key(guest) {
        out.push(Effect::Send(Command::InUse { guest: guest.clone(), on }));
    }
}
