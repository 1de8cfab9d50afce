//! What this host has left while a run is on: told when it becomes little, and given back where somebody only looks.
//!
//! Below the reserve no further machine gets memory (that is the rule of admission). Below a quarter of it the youngest guest that is held
//! for inspection is let go: its cases have ended, and what it shows is worth less than what others run.

use crate::{
    engine::{controls::RunControls, events::EventSender},
    host::{capacity::Meter, clock},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use vmdeck_model::{plan::HostConfig, quantity::show_size};

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a guest that is let go may take to give back what it has, before the next one is.
const RELIEF: Duration = Duration::from_secs(15);
/// The share of time, in per cent, in which nothing runs for want of memory, that counts as want.
const STALLED: f32 = 20.0;

/// How much is left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SupplyLevel {
    Enough,
    /// Less than what is to stay free.
    Low,
    /// So little that something must go.
    Floor,
}

fn level(free: Option<u64>, reserve: u64) -> SupplyLevel {
    match free {
        Some(free) if free < reserve / 4 => SupplyLevel::Floor,
        Some(free) if free < reserve => SupplyLevel::Low,
        _ => SupplyLevel::Enough,
    }
}

/// Something of the host that can run out.
struct Supply {
    what: String,
    key: &'static str,
    reserve: u64,
    /// Where it is, for disk space; `None` = memory.
    at: Option<PathBuf>,
    told: SupplyLevel,
}

impl Supply {
    fn free(&self, meter: &dyn Meter) -> Option<u64> {
        match &self.at {
            Some(path) => meter.free_disk(path),
            None => meter.free_memory(),
        }
    }

    /// Returns how it stands, and the sentence to be told where it became worse.
    fn look(&mut self, meter: &dyn Meter) -> (SupplyLevel, Option<String>) {
        let free = self.free(meter);
        let mut now = level(free, self.reserve);
        if self.at.is_none() && meter.memory_stall().is_some_and(|stall| stall >= STALLED) {
            now = now.max(SupplyLevel::Low);
        }
        let is_news = now > self.told;
        self.told = now;
        let text = is_news.then(|| {
            let (free, least) = (show_size(free.unwrap_or(0)), show_size(self.reserve));
            format!("{free} of {} left, and `{}` is {least}: new guests wait", self.what, self.key)
        });
        (now, text)
    }
}

/// Watches this host until it is dropped; `places` = where disk space is needed.
pub(in crate::engine) async fn watch(
    host: HostConfig,
    places: Vec<PathBuf>,
    controls: Arc<RunControls>,
    events: EventSender,
    meter: Arc<dyn Meter>,
) {
    let disk = |at: PathBuf| Supply {
        what: format!("the disk space at `{}`", at.display()),
        key: "host.min_free_disk",
        reserve: host.min_free_disk,
        at: Some(at),
        told: SupplyLevel::Enough,
    };
    let memory = Supply {
        what: "memory".into(),
        key: "host.min_free_memory",
        reserve: host.min_free_memory,
        at: None,
        told: SupplyLevel::Enough,
    };
    let mut supplies: Vec<Supply> = std::iter::once(memory).chain(places.into_iter().map(disk)).collect();
    loop {
        let mut worst = SupplyLevel::Enough;
        for supply in &mut supplies {
            let (now, text) = supply.look(meter.as_ref());
            worst = worst.max(now);
            if let Some(text) = text {
                events.warn(None, text, None);
            }
        }
        if worst == SupplyLevel::Floor
            && let Some(guest) = controls.end_youngest_pause()
        {
            let text = format!("guest `{guest}` is no longer held for inspection: this host has too little left");
            events.warn(Some(&guest), text, None);
            clock::sleep(RELIEF).await;
        }
        clock::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_and_too_little_are_told_once_each_time_it_becomes_worse() {
        #[derive(Default)]
        struct WeakHost(parking_lot::Mutex<(u64, f32)>);
        impl Meter for WeakHost {
            fn total_memory(&self) -> Option<u64> {
                None
            }

            fn free_memory(&self) -> Option<u64> {
                Some(self.0.lock().0)
            }
            fn free_disk(&self, _: &std::path::Path) -> Option<u64> {
                None
            }
            fn memory_stall(&self) -> Option<f32> {
                Some(self.0.lock().1)
            }
        }
        let meter = WeakHost::default();
        let mut memory = Supply {
            what: "memory".into(),
            key: "host.min_free_memory",
            reserve: 100,
            at: None,
            told: SupplyLevel::Enough,
        };
        let mut seen = Vec::new();
        for now in [(200, 0.0), (99, 0.0), (98, 0.0), (24, 0.0), (25, 0.0), (200, 0.0), (200, 25.0), (200, 0.0)] {
            *meter.0.lock() = now;
            let (level, text) = memory.look(&meter);
            seen.push((level, text.is_some()));
        }
        let wanted = [
            (SupplyLevel::Enough, false),
            (SupplyLevel::Low, true),
            (SupplyLevel::Low, false),
            (SupplyLevel::Floor, true),
            (SupplyLevel::Low, false),
            (SupplyLevel::Enough, false),
            (SupplyLevel::Low, true),
            (SupplyLevel::Enough, false),
        ];
        assert_eq!(seen, wanted);
        let mut disk = Supply { at: Some("/".into()), ..memory };
        assert_eq!(disk.look(&meter), (SupplyLevel::Enough, None), "what nobody can say is no want");
    }
}
