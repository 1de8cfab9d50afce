//! `test_params.py`: the record of a run's parameters, which Python imports and bash sources.

/// Returns a line `NAME="value"` that both languages read as the same text.
pub(in crate::app) fn record(name: &str, value: &str, is_number: bool) -> String {
    if is_number {
        return format!("{name}={value}");
    }
    let is_special = |c: char| matches!(c, '"' | '$' | '`' | '\\');
    if !value.contains(is_special) {
        return format!("{name}=\"{value}\"");
    }
    if !value.contains(['\'', '\\']) {
        return format!("{name}='{value}'");
    }
    // Python keeps the backslash before a dollar; bash, for which this is, does not.
    let escaped: String = value.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect();
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_what_it_is() {
        for (name, value, is_number, line) in [
            ("VCPU", "4", true, "VCPU=4"),
            ("TESTCASE", "TD_BOOT", false, "TESTCASE=\"TD_BOOT\""),
            ("CMDLINE", " ", false, "CMDLINE=\" \""),
            ("CMDLINE", "a=\"b c\" $x", false, "CMDLINE='a=\"b c\" $x'"),
            ("CMDLINE", "it's \"$x\"", false, "CMDLINE=\"it's \\\"\\$x\\\"\""),
        ] {
            assert_eq!(record(name, value, is_number), line);
        }
    }
}
