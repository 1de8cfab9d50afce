//! The lock's protocol as a model, searched exhaustively: two vmdecks beside old scripts that share the path, each step of each of them in every
//! order, with crashes.
//!
//! What the steps are is in docs/design/lock.md. A script's steps are those that cost it its lock: it judges by several looks at a name that may lead to
//! another folder each time, and removes by name. Time is in the model as one rule: what a script began to judge before a lock was published
//! it ends within the time that the lock stands unused.

use std::collections::{HashMap, HashSet, VecDeque};

/// The folder that the name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Folder {
    inode: u8,
    maker: Maker,
    has_pid: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Maker {
    Ours(usize),
    Script(usize),
}

/// What a vmdeck is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OurStep {
    Idle,
    /// It has made and locked a folder under a private name.
    Made(u8),
    /// It holds the flock of a dead lock, which it has judged.
    Judged {
        own: u8,
        dead: u8,
    },
    /// It has exchanged the names, and looks at what it got.
    Exchanged {
        own: u8,
        dead: u8,
        got: Option<Folder>,
    },
    /// Its lock has the name, and is not used yet.
    Settling(u8),
    Held(u8),
    /// It has seen that its lock still has the name, and is about to rename it away.
    Releasing(u8),
    Dead,
}

/// What an old script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ScriptStep {
    Idle,
    /// It has seen a folder, and is about to look at its age.
    Saw,
    /// It is about to look at its pid.
    Aged,
    /// It has read a pid, and asks whether that lives.
    Read(Maker),
    /// It will remove whatever has the name.
    Removes,
    /// It has made the folder, and not written its pid.
    Made,
    In,
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    name: Option<Folder>,
    ours: Vec<OurStep>,
    scripts: Vec<ScriptStep>,
    /// For each script, whether it began to judge before a lock of ours that is not used yet was published.
    stale: Vec<bool>,
    inodes: u8,
    turns: Vec<u8>,
}

/// What the model is to be like.
#[derive(Clone, Copy)]
struct Rules {
    scripts: usize,
    /// How many turns each vmdeck takes.
    turns: u8,
    /// Whether a lock stands unused at first.
    settles: bool,
    /// Whether what is broken is compared with what was judged.
    compares: bool,
}

impl Moment {
    fn new(rules: Rules) -> Self {
        Self {
            name: None,
            ours: vec![OurStep::Idle; 2],
            scripts: vec![ScriptStep::Idle; rules.scripts],
            stale: vec![false; rules.scripts],
            inodes: 0,
            turns: vec![0; 2],
        }
    }

    /// Returns whether somebody has the flock of a folder of ours.
    fn is_flocked(&self, inode: u8) -> bool {
        self.ours.iter().any(|one| match *one {
            OurStep::Idle | OurStep::Dead => false,
            OurStep::Made(own) | OurStep::Settling(own) | OurStep::Held(own) | OurStep::Releasing(own) => own == inode,
            OurStep::Judged { own, dead } | OurStep::Exchanged { own, dead, .. } => own == inode || dead == inode,
        })
    }

    fn lives(&self, maker: Maker) -> bool {
        match maker {
            Maker::Ours(one) => self.ours[one] != OurStep::Dead,
            Maker::Script(one) => self.scripts[one] != ScriptStep::Dead,
        }
    }

    fn published(&mut self) {
        for (stale, script) in self.stale.iter_mut().zip(&self.scripts) {
            *stale |= matches!(script, ScriptStep::Saw | ScriptStep::Aged | ScriptStep::Read(_) | ScriptStep::Removes);
        }
    }

    /// Returns every state that one step leads to.
    fn next(&self, rules: Rules) -> Vec<Moment> {
        let mut out = Vec::new();
        for at in 0..self.ours.len() {
            self.ours_next(at, rules, &mut out);
        }
        for at in 0..self.scripts.len() {
            self.script_next(at, &mut out);
        }
        out
    }

    fn ours_next(&self, at: usize, rules: Rules, out: &mut Vec<Moment>) {
        let mut step = |change: &dyn Fn(&mut Moment)| {
            let mut next = self.clone();
            change(&mut next);
            out.push(next);
        };
        let folder = |inode| Folder { inode, maker: Maker::Ours(at), has_pid: true };
        let used = |inode| if rules.settles { OurStep::Settling(inode) } else { OurStep::Held(inode) };
        if !matches!(self.ours[at], OurStep::Idle | OurStep::Dead) {
            // A crash: the kernel frees the flock.
            step(&|s| s.ours[at] = OurStep::Dead);
        }
        match self.ours[at] {
            OurStep::Idle if self.turns[at] < rules.turns => step(&|s| {
                s.turns[at] += 1;
                s.inodes += 1;
                s.ours[at] = OurStep::Made(s.inodes);
            }),
            OurStep::Idle | OurStep::Dead => {}
            OurStep::Made(own) => match self.name {
                None => step(&|s| {
                    s.name = Some(folder(own));
                    s.published();
                    s.ours[at] = used(own);
                }),
                Some(there) => {
                    let is_dead = match there.maker {
                        Maker::Ours(_) => !self.is_flocked(there.inode),
                        Maker::Script(one) => there.has_pid && self.scripts[one] == ScriptStep::Dead,
                    };
                    // Two that judge one folder cannot both have its flock.
                    if is_dead && !self.is_flocked(there.inode) {
                        step(&|s| s.ours[at] = OurStep::Judged { own, dead: there.inode });
                    }
                }
            },
            OurStep::Judged { own, dead } => step(&|s| match s.name {
                None => s.ours[at] = OurStep::Made(own),
                got => {
                    s.name = Some(folder(own));
                    s.published();
                    s.ours[at] = OurStep::Exchanged { own, dead, got };
                }
            }),
            OurStep::Exchanged { own, dead, got } => step(&|s| {
                let is_it = !rules.compares || got.is_some_and(|got| got.inode == dead);
                if is_it {
                    s.ours[at] = used(own);
                } else if s.name.is_some_and(|there| there.inode == own) {
                    s.name = got;
                    s.ours[at] = OurStep::Made(own);
                } else {
                    s.ours[at] = OurStep::Made(own);
                }
            }),
            OurStep::Settling(own) => {
                if self.name.is_none_or(|there| there.inode != own) {
                    step(&|s| s.ours[at] = OurStep::Made(own));
                } else if !self.stale.iter().any(|stale| *stale) {
                    step(&|s| s.ours[at] = OurStep::Held(own));
                }
            }
            OurStep::Held(own) => {
                let is_ours = self.name.is_some_and(|there| there.inode == own);
                step(&|s| s.ours[at] = if is_ours { OurStep::Releasing(own) } else { OurStep::Idle });
            }
            OurStep::Releasing(own) => step(&|s| {
                // What is not ours after all is put back.
                if s.name.is_some_and(|there| there.inode == own) {
                    s.name = None;
                }
                s.ours[at] = OurStep::Idle;
            }),
        }
    }

    fn script_next(&self, at: usize, out: &mut Vec<Moment>) {
        let mut step = |to: ScriptStep, change: &dyn Fn(&mut Moment)| {
            let mut next = self.clone();
            change(&mut next);
            next.scripts[at] = to;
            // Its next look begins anew.
            next.stale[at] &= !matches!(to, ScriptStep::Idle | ScriptStep::In | ScriptStep::Made | ScriptStep::Dead);
            out.push(next);
        };
        if matches!(self.scripts[at], ScriptStep::In) {
            step(ScriptStep::Dead, &|_| {});
        }
        let folder = |s: &mut Moment, has_pid| {
            s.inodes += 1;
            s.name = Some(Folder { inode: s.inodes, maker: Maker::Script(at), has_pid });
        };
        match self.scripts[at] {
            ScriptStep::Idle if self.name.is_none() && self.inodes < 12 => {
                step(ScriptStep::Made, &|s| folder(s, false));
            }
            ScriptStep::Idle if self.name.is_some() => step(ScriptStep::Saw, &|_| {}),
            ScriptStep::Idle | ScriptStep::Dead => {}
            // A name that has vanished has the age of the epoch.
            ScriptStep::Saw if self.name.is_none() => step(ScriptStep::Removes, &|_| {}),
            // A time in the future, or a short one, is no age.
            ScriptStep::Saw => step(ScriptStep::Aged, &|_| {}),
            ScriptStep::Aged => match self.name.filter(|there| there.has_pid) {
                Some(there) => step(ScriptStep::Read(there.maker), &|_| {}),
                None => step(ScriptStep::Idle, &|_| {}),
            },
            ScriptStep::Read(maker) => {
                let to = if self.lives(maker) { ScriptStep::Idle } else { ScriptStep::Removes };
                step(to, &|_| {});
            }
            ScriptStep::Removes => step(ScriptStep::Idle, &|s| s.name = None),
            ScriptStep::Made => step(ScriptStep::In, &|s| {
                if let Some(there) = s.name.as_mut().filter(|there| there.maker == Maker::Script(at)) {
                    there.has_pid = true;
                }
            }),
            ScriptStep::In => step(ScriptStep::Idle, &|s| s.name = None),
        }
    }

    fn held(&self) -> usize {
        self.ours.iter().filter(|one| matches!(one, OurStep::Held(_) | OurStep::Releasing(_))).count()
    }

    /// Returns whether a script that believes to be inside has lost its folder.
    fn has_robbed_script(&self) -> bool {
        self.scripts.iter().enumerate().any(|(at, script)| {
            let is_there = self.name.is_some_and(|there| there.maker == Maker::Script(at));
            matches!(script, ScriptStep::Made | ScriptStep::In) && !is_there
        })
    }

    fn scripts_in(&self) -> usize {
        self.scripts.iter().filter(|one| matches!(one, ScriptStep::In)).count()
    }
}

/// Searches all states; returns how many there are, and the way to the first one that is bad.
fn search(rules: Rules, is_bad: impl Fn(&Moment) -> bool) -> (usize, Option<Vec<Moment>>) {
    let first = Moment::new(rules);
    let (mut seen, mut from) = (HashSet::from([first.clone()]), HashMap::<Moment, Moment>::new());
    let mut todo = VecDeque::from([first]);
    while let Some(state) = todo.pop_front() {
        if is_bad(&state) {
            let mut way = vec![state];
            while let Some(before) = from.get(&way[way.len() - 1]) {
                way.push(before.clone());
            }
            way.reverse();
            return (seen.len(), Some(way));
        }
        for next in state.next(rules) {
            if seen.insert(next.clone()) {
                from.insert(next.clone(), state.clone());
                todo.push_back(next);
            }
        }
    }
    (seen.len(), None)
}

const ALL: Rules = Rules { scripts: 0, turns: 3, settles: false, compares: true };

fn two_of_ours(state: &Moment) -> bool {
    state.held() > 1
}

fn ours_beside_a_script(state: &Moment) -> bool {
    state.held() > 0 && state.scripts_in() > 0
}

#[test]
fn no_two_vmdecks_ever_hold_the_lock_whoever_crashes() {
    let (states, bad) = search(ALL, two_of_ours);
    assert!(bad.is_none(), "{bad:#?}");
    assert!(states > 50, "{states} states");
}

#[test]
fn beside_one_old_script_nobody_holds_the_lock_twice() {
    let rules = Rules { scripts: 1, turns: 2, settles: true, ..ALL };
    let (states, bad) = search(rules, |state| two_of_ours(state) || ours_beside_a_script(state));
    assert!(bad.is_none(), "{bad:#?}");
    assert!(states > 1000, "{states} states");
}

/// The model is faithful: without the measure it finds what the measure is for.
#[test]
fn without_a_time_unused_a_script_takes_a_lock_away() {
    let rules = Rules { scripts: 1, turns: 2, settles: false, ..ALL };
    let (_, bad) = search(rules, |state| two_of_ours(state) || ours_beside_a_script(state));
    assert!(bad.is_some());
}

#[test]
fn without_a_comparison_of_what_was_exchanged_a_live_lock_is_broken() {
    let rules = Rules { scripts: 1, turns: 2, settles: true, compares: false };
    let (_, bad) = search(rules, |state| two_of_ours(state) || ours_beside_a_script(state));
    assert!(bad.is_some());
}

/// What no vmdeck can prevent: of two scripts, one takes the other's lock, and its end takes ours. It is noticed, and makes the run infra.
#[test]
fn two_old_scripts_can_take_a_lock_that_is_held() {
    let rules = Rules { scripts: 2, turns: 1, settles: true, ..ALL };
    let (_, bad) = search(rules, |state| ours_beside_a_script(state) || two_of_ours(state));
    let way = bad.expect("the scripts' own race reaches us");
    assert!(way.iter().any(Moment::has_robbed_script), "only after one of them has lost its own: {way:#?}");
}
