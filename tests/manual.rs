//! Cases that a person answers.

use std::{
    io::Write,
    process::{Child, ChildStdin},
};
use vmdeck_testkit::world::{Ran, World};

const ASKS: &str = "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"logo\"\n\
    manual = \"Does the screen of {{v}} show the logo?\"\nmatrix = { v = [\"one\"] }\nTIMEOUT\
    [[suites.s.cases]]\nname = \"after\"\nneeds = [\"logo\"]\nrun = \"true\"\n";

fn world(timeout: &str) -> World {
    let world = World::new("");
    let config = std::fs::read_to_string(world.path("vmdeck.toml")).expect("config");
    std::fs::write(world.path("vmdeck.toml"), config + &ASKS.replace("TIMEOUT", timeout)).expect("config");
    world
}

fn finish(child: Child) -> Ran {
    Ran::of(&child.wait_with_output().expect("ends"))
}

fn tell(stdin: &mut ChildStdin, line: &str) {
    writeln!(stdin, "{line}").expect("told");
}

#[test]
fn without_a_person_it_is_skipped_and_that_is_said() {
    let world = world("");
    world.ci(&[]).exits(0).says("a person has to say, in the cockpit: Does the screen of one show the logo?");
    let verdicts: Vec<String> = world.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, ["skipped", "skipped"], "what needs it is skipped as well");
}

#[test]
fn a_person_says_yes_or_no() {
    for (passed, exit, verdicts) in [(true, 0, ["passed", "passed"]), (false, 1, ["failed", "skipped"])] {
        let world = world("");
        let (child, mut stdin) = world.controlled(&[]);
        world.until_event(r#""kind":"asked","guest":"here","suite":"s","case":"logo:v=one""#);
        tell(&mut stdin, &format!(r#"{{"command":"answer","guest":"here","passed":{passed}}}"#));
        // A second answer is one too many.
        tell(&mut stdin, r#"{"command":"answer","guest":"here","passed":true}"#);
        finish(child).exits(exit);
        let seen: Vec<String> = world.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
        assert_eq!(seen, verdicts);
    }
}

#[test]
fn nobody_who_answers_in_time_is_no_pass_and_a_stop_ends_the_waiting() {
    let late = world("timeout = \"300ms\"\n");
    let (child, stdin) = late.controlled(&[]);
    let ran = finish(child);
    drop(stdin);
    ran.exits(1).says("nobody answered within");
    let stopped = world("");
    let (child, mut stdin) = stopped.controlled(&[]);
    stopped.until_event(r#""kind":"asked""#);
    tell(&mut stdin, r#"{"command":"cancel","reason":"user"}"#);
    finish(child).exits(130);
    stopped.assert_nothing_left();
}

#[test]
fn a_question_that_is_empty_or_has_a_command_beside_it_is_a_mistake() {
    for (keys, says) in
        [("manual = \" \"", "nobody could answer it"), ("manual = \"x?\"\nrun = \"true\"", "exactly one of")]
    {
        let world = World::new(&format!("[suites.s]\n[[suites.s.cases]]\nname = \"x\"\n{keys}\n"));
        world.run(&["config", "check"]).exits(2).complains(says);
    }
}
