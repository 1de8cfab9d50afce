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
enum Ours {
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
enum Script {
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
struct State {
    name: Option<Folder>,
    ours: Vec<Ours>,
    scripts: Vec<Script>,
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

impl State {
    fn new(rules: Rules) -> Self {
        Self {
            name: None,
            ours: vec![Ours::Idle; 2],
            scripts: vec![Script::Idle; rules.scripts],
            stale: vec![false; rules.scripts],
            inodes: 0,
            turns: vec![0; 2],
        }
    }

    /// Returns whether somebody has the flock of a folder of ours.
    fn is_flocked(&self, inode: u8) -> bool {
        self.ours.iter().any(|one| match *one {
            Ours::Idle | Ours::Dead => false,
            Ours::Made(own) | Ours::Settling(own) | Ours::Held(own) | Ours::Releasing(own) => own == inode,
            Ours::Judged { own, dead } | Ours::Exchanged { own, dead, .. } => own == inode || dead == inode,
        })
    }

    fn lives(&self, maker: Maker) -> bool {
        match maker {
            Maker::Ours(one) => self.ours[one] != Ours::Dead,
            Maker::Script(one) => self.scripts[one] != Script::Dead,
        }
    }

    fn published(&mut self) {
        for (stale, script) in self.stale.iter_mut().zip(&self.scripts) {
            *stale |= matches!(script, Script::Saw | Script::Aged | Script::Read(_) | Script::Removes);
        }
    }

    /// Returns every state that one step leads to.
    fn next(&self, rules: Rules) -> Vec<State> {
        let mut out = Vec::new();
        for at in 0..self.ours.len() {
            self.ours_next(at, rules, &mut out);
        }
        for at in 0..self.scripts.len() {
            self.script_next(at, &mut out);
        }
        out
    }

    fn ours_next(&self, at: usize, rules: Rules, out: &mut Vec<State>) {
        let mut step = |change: &dyn Fn(&mut State)| {
            let mut next = self.clone();
            change(&mut next);
            out.push(next);
        };
        let folder = |inode| Folder { inode, maker: Maker::Ours(at), has_pid: true };
        let used = |inode| if rules.settles { Ours::Settling(inode) } else { Ours::Held(inode) };
        if !matches!(self.ours[at], Ours::Idle | Ours::Dead) {
            // A crash: the kernel frees the flock.
            step(&|s| s.ours[at] = Ours::Dead);
        }
        match self.ours[at] {
            Ours::Idle if self.turns[at] < rules.turns => step(&|s| {
                s.turns[at] += 1;
                s.inodes += 1;
                s.ours[at] = Ours::Made(s.inodes);
            }),
            Ours::Idle | Ours::Dead => {}
            Ours::Made(own) => match self.name {
                None => step(&|s| {
                    s.name = Some(folder(own));
                    s.published();
                    s.ours[at] = used(own);
                }),
                Some(there) => {
                    let is_dead = match there.maker {
                        Maker::Ours(_) => !self.is_flocked(there.inode),
                        Maker::Script(one) => there.has_pid && self.scripts[one] == Script::Dead,
                    };
                    // Two that judge one folder cannot both have its flock.
                    if is_dead && !self.is_flocked(there.inode) {
                        step(&|s| s.ours[at] = Ours::Judged { own, dead: there.inode });
                    }
                }
            },
            Ours::Judged { own, dead } => step(&|s| match s.name {
                None => s.ours[at] = Ours::Made(own),
                got => {
                    s.name = Some(folder(own));
                    s.published();
                    s.ours[at] = Ours::Exchanged { own, dead, got };
                }
            }),
            Ours::Exchanged { own, dead, got } => step(&|s| {
                let is_it = !rules.compares || got.is_some_and(|got| got.inode == dead);
                if is_it {
                    s.ours[at] = used(own);
                } else if s.name.is_some_and(|there| there.inode == own) {
                    s.name = got;
                    s.ours[at] = Ours::Made(own);
                } else {
                    s.ours[at] = Ours::Made(own);
                }
            }),
            Ours::Settling(own) => {
                if self.name.is_none_or(|there| there.inode != own) {
                    step(&|s| s.ours[at] = Ours::Made(own));
                } else if !self.stale.iter().any(|stale| *stale) {
                    step(&|s| s.ours[at] = Ours::Held(own));
                }
            }
            Ours::Held(own) => {
                let is_ours = self.name.is_some_and(|there| there.inode == own);
                step(&|s| s.ours[at] = if is_ours { Ours::Releasing(own) } else { Ours::Idle });
            }
            Ours::Releasing(own) => step(&|s| {
                // What is not ours after all is put back.
                if s.name.is_some_and(|there| there.inode == own) {
                    s.name = None;
                }
                s.ours[at] = Ours::Idle;
            }),
        }
    }

    fn script_next(&self, at: usize, out: &mut Vec<State>) {
        let mut step = |to: Script, change: &dyn Fn(&mut State)| {
            let mut next = self.clone();
            change(&mut next);
            next.scripts[at] = to;
            // Its next look begins anew.
            next.stale[at] &= !matches!(to, Script::Idle | Script::In | Script::Made | Script::Dead);
            out.push(next);
        };
        if matches!(self.scripts[at], Script::In) {
            step(Script::Dead, &|_| {});
        }
        let folder = |s: &mut State, has_pid| {
            s.inodes += 1;
            s.name = Some(Folder { inode: s.inodes, maker: Maker::Script(at), has_pid });
        };
        match self.scripts[at] {
            Script::Idle if self.name.is_none() && self.inodes < 12 => step(Script::Made, &|s| folder(s, false)),
            Script::Idle if self.name.is_some() => step(Script::Saw, &|_| {}),
            Script::Idle | Script::Dead => {}
            // A name that has vanished has the age of the epoch.
            Script::Saw if self.name.is_none() => step(Script::Removes, &|_| {}),
            // A time in the future, or a short one, is no age.
            Script::Saw => step(Script::Aged, &|_| {}),
            Script::Aged => match self.name.filter(|there| there.has_pid) {
                Some(there) => step(Script::Read(there.maker), &|_| {}),
                None => step(Script::Idle, &|_| {}),
            },
            Script::Read(maker) => {
                let to = if self.lives(maker) { Script::Idle } else { Script::Removes };
                step(to, &|_| {});
            }
            Script::Removes => step(Script::Idle, &|s| s.name = None),
            Script::Made => step(Script::In, &|s| {
                if let Some(there) = s.name.as_mut().filter(|there| there.maker == Maker::Script(at)) {
                    there.has_pid = true;
                }
            }),
            Script::In => step(Script::Idle, &|s| s.name = None),
        }
    }

    fn held(&self) -> usize {
        self.ours.iter().filter(|one| matches!(one, Ours::Held(_) | Ours::Releasing(_))).count()
    }

    /// Returns whether a script that believes to be inside has lost its folder.
    fn has_robbed_script(&self) -> bool {
        self.scripts.iter().enumerate().any(|(at, script)| {
            let is_there = self.name.is_some_and(|there| there.maker == Maker::Script(at));
            matches!(script, Script::Made | Script::In) && !is_there
        })
    }

    fn scripts_in(&self) -> usize {
        self.scripts.iter().filter(|one| matches!(one, Script::In)).count()
    }
}

/// Searches all states; returns how many there are, and the way to the first one that is bad.
fn search(rules: Rules, is_bad: impl Fn(&State) -> bool) -> (usize, Option<Vec<State>>) {
    let first = State::new(rules);
    let (mut seen, mut from) = (HashSet::from([first.clone()]), HashMap::<State, State>::new());
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

fn two_of_ours(state: &State) -> bool {
    state.held() > 1
}

fn ours_beside_a_script(state: &State) -> bool {
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
    assert!(way.iter().any(State::has_robbed_script), "only after one of them has lost its own: {way:#?}");
}
