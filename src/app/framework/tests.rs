use super::*;
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// Returns the recorded cases: configs, flags, and what the framework made of them.
fn golden() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest-test/golden");
    let mut all: Vec<(String, Value)> = std::fs::read_dir(folder)
        .expect("golden cases")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("text");
            (path.file_stem().expect("name").to_string_lossy().into_owned(), serde_json::from_str(&text).expect("JSON"))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Writes the files of a case into a folder.
fn write_files(case: &Value, dir: &Path) {
    let write = |name: &str, value: &Value| {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, serde_json::to_string(value).expect("JSON")).expect("file");
    };
    if case["form"] == "old" {
        write("qemu.config.json", &case["config"]);
    } else {
        for (name, value) in case["config"].as_object().expect("files") {
            write(name, value);
        }
    }
}

/// Returns what vmdeck makes of a case: the arguments and the record.
fn run(case: &Value) -> vmdeck_model::error::Result<(Vec<String>, Vec<String>)> {
    let dir = tempfile::tempdir().expect("folder");
    write_files(case, dir.path());
    let args: Vec<String> = serde_json::from_value(case["args"].clone()).expect("words");
    let files: BTreeSet<&str> =
        case["host"]["files"].as_array().expect("files").iter().filter_map(Value::as_str).collect();
    let port = u16::try_from(case["port"].as_u64().expect("port")).expect("port");
    let call = crate::app::guest_test::Call::parse(&args)?;
    call.testcase()?;
    let config = call.config(dir.path())?;
    let machine =
        FrameworkMachine::of(&config, &call.wanted(), port, &|path| path.to_str().is_some_and(|p| files.contains(p)))?;
    Ok((machine.argv().into_iter().map(str::to_owned).collect(), call.record(port)))
}

#[test]
fn every_recorded_case_gives_the_recorded_arguments() {
    let all = golden();
    assert_eq!(all.len(), 46);
    for (name, case) in all {
        let expected = case.get("drop_in").map_or(&case["argv"], |better| &better["argv"]);
        match (run(&case), expected) {
            (Ok((argv, record)), expected) if !expected.is_null() => {
                assert_eq!(&serde_json::json!(argv), expected, "{name}");
                // A record that the framework could not read itself is no measure.
                if case.get("drop_in").is_none_or(|better| better["by"] != "reference") {
                    assert_eq!(serde_json::json!(record), case["test_params"], "{name}");
                }
            }
            (Err(fault), Value::Null) => {
                assert_eq!(fault.blame(), vmdeck_model::error::Blame::User, "{name}: {fault}");
                let wanted = case["drop_in"]["refuse"].as_str().unwrap_or_default();
                let named =
                    wanted.split_whitespace().find(|word| word.starts_with('-')).or(wanted.split_whitespace().last());
                let said = fault.render();
                assert!(named.is_some_and(|word| said.contains(word)) || said.contains("-m `"), "{name}: {said}");
            }
            (got, expected) => panic!("{name}: {got:?}, expected {expected}"),
        }
    }
}

/// Returns the case with its files in a folder of ours, so that they can be there: every `/mnt/vm` is another one.
fn moved(case: &Value, to: &Path) -> Value {
    let text = serde_json::to_string(case).expect("JSON").replace("/mnt/vm", &to.to_string_lossy());
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_config_that_is_written_down_gives_the_same_arguments() {
    for (name, case) in golden() {
        let dir = tempfile::tempdir().expect("folder");
        let case = moved(&case, dir.path());
        for file in case["host"]["files"].as_array().expect("files").iter().filter_map(Value::as_str) {
            std::fs::create_dir_all(Path::new(file).parent().expect("parent")).expect("folder");
            std::fs::write(file, "").expect("file");
        }
        let scripts = dir.path().join("guest-test");
        write_files(&case, &scripts);
        let mut flags: Vec<std::ffi::OsString> =
            case["args"].as_array().expect("words").iter().filter_map(Value::as_str).map(Into::into).collect();
        let mut from = scripts.join("qemu.config.json");
        if name.ends_with("other-common-and-qemu-file") {
            // The file that is taken over is named, and the other one from its folder.
            (from, flags) = (scripts.join("sub/q.json"), vec!["-i".into(), "c.json".into()]);
        }
        flags.extend(["--port".into(), case["port"].to_string().into()]);
        let converted = crate::app::init::taken_over(&from, &flags);
        let expected = case.get("drop_in").map_or(&case["argv"], |better| &better["argv"]);
        let (text, expected) = match (converted, expected) {
            (Ok(text), Value::Array(expected)) => (text, expected),
            (Err(_), Value::Null) => continue,
            // Without a test case there is nothing to run, but there is a machine.
            (Ok(_), Value::Null) if name.ends_with("no-testcase") => continue,
            (got, expected) => panic!("{name}: {got:?}, expected {expected}"),
        };
        let file = scripts.join("vmdeck.toml");
        std::fs::write(&file, text).expect("config");
        // Without the password, which comes from a variable.
        let config = crate::cli::ConfigArgs { file: Some(file), ..Default::default() };
        let setup = crate::app::settings::load_without_secrets(&config).expect(&name);
        let options = &setup.guests[0].options;
        let mut argv = vec![options.text("binary").expect("binary").to_owned()];
        argv.extend(options.texts("arguments").iter().cloned());
        assert_eq!(&serde_json::json!(argv), &Value::Array(expected.clone()), "{name}");
    }
}

/// Returns what the launcher says to these flags and this config of the older form.
fn said(flags: &[&str], config: &str) -> String {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("qemu.config.json"), config).expect("config");
    let words: Vec<String> = flags.iter().map(|word| (*word).to_owned()).collect();
    let made = crate::app::guest_test::Call::parse(&words).and_then(|call| {
        let config = call.config(dir.path())?;
        FrameworkMachine::of(&config, &call.wanted(), 10_010, &|_| true)
    });
    match made {
        Ok(machine) => machine.argv().join(" "),
        Err(fault) => fault.render(),
    }
}

#[test]
fn what_would_do_harm_is_refused_with_its_reason() {
    let config = |common: &str| {
        format!(
            "{{\"common\": {{\"qemu_img\": \"q\", \"vm_type\": \"legacy\"{common}}}, \"vm\": {{\"cfg_1\": \"-a\"}}}}"
        )
    };
    let good = config("");
    for (flags, config, wanted) in [
        (&["-x", "A"][..], good.clone(), "q -a"),
        // They are recorded as numbers, and a shell reads the record.
        (&["-v", "1;touch x"], good.clone(), "cannot use -v `1;touch x`: it must be a whole number, from 1 on"),
        (&["-m", "$(id)"], good.clone(), "cannot use -m"),
        (&["-s", "0"], good.clone(), "from 1 on"),
        (&["-d", "banana"], good.clone(), "cannot use -d `banana`: it must be `on` or `off`"),
        (&["-t", "a\nB=1"], good.clone(), "cannot use -t: a text of several lines"),
        (&["-e", "../x", "-f", "y"], good.clone(), "without `..`"),
        (&["-f", "/etc"], good.clone(), "without `..`"),
        (&["-i", "gone.json"], good.clone(), "there is no such file"),
        (&[], format!("\u{feff}{good}"), "q -a"),
        (&[], config(", \"guest_root_passwd\": 12345"), "`guest_root_passwd` is no text"),
        (&[], good.replace("\"q\"", "\"\""), "there is no `qemu_img`"),
        (&[], good.replace("-a", "-a $(id)"), "commands in a text are not run"),
        (&[], good.replace("-a", "-a $SSHPASS"), "a password has no place"),
    ] {
        let said = said(flags, &config);
        assert!(said.contains(wanted), "{flags:?}: {said}");
        assert!(!said.contains("12345"), "a password is shown");
    }
}

#[test]
fn a_feature_without_a_folder_has_one_of_its_own_name() {
    let words = ["-x", "A", "-f", "demo"].map(str::to_owned);
    let call = crate::app::guest_test::Call::parse(&words).expect("call");
    assert_eq!(call.record(1), ["PORT=1", "TESTCASE=\"A\"", "FEATURE=\"demo\"", "FEATURE_PATH=\"demo\""]);
}

#[test]
fn a_file_that_is_not_there_is_said() {
    let (_, case) = golden().into_iter().find(|(name, _)| name == "24-new-legacy-no-kernel").expect("case");
    let dir = tempfile::tempdir().expect("folder");
    write_files(&case, dir.path());
    let call = crate::app::guest_test::Call::parse(&["-x".to_owned(), "A".to_owned()]).expect("call");
    let config = call.config(dir.path()).expect("config");
    let machine = FrameworkMachine::of(&config, &call.wanted(), 1, &|_| false).expect("machine");
    assert!(
        machine.notes.iter().any(|note| note.starts_with("`kernel_img` `/mnt/vm/vmlinuz` is not there")),
        "{:?}",
        machine.notes
    );
}
