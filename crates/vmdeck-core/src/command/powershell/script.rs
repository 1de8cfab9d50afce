//! What a script for PowerShell means: which errors end it, and which exit status it has.
//!
//! The rules, as docs/windows.md tells them: an error that nothing catches ends the script with 1; `exit N` is N; a script that comes
//! to its end has the status of the last program that it ran. A script of several lines also ends at the first of its statements
//! that fails, so that no program's failure is passed over.

use super::quote::{argument, quote};
use crate::command::RemoteCommand;
use base64::{Engine, prelude::BASE64_STANDARD};
use vmdeck_model::suite::{ScriptShell, has_several_lines};

/// Reads the script, puts the check behind each of its statements that must succeed, and runs it. What stands for the script, the
/// statements, what must be so besides, the preference, what catches errors and the end is put in. Errors that the script itself
/// silences leave `$?` false, so there only the status of a program counts.
const RUN: &str = "$t=[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('SCRIPT'))
$k=$null;$e=$null
$a=[Management.Automation.Language.Parser]::ParseInput($t,[ref]$k,[ref]$e)
if($e){foreach($x in $e){[Console]::Error.WriteLine(\"line $($x.Extent.StartLineNumber): $($x.Message)\")};exit 1}
if($a.EndBlock -and !$a.BeginBlock -and !$a.ProcessBlock){
  $s=@($a.EndBlock.Statements)
  for($i=$s.Count-1;$i -ge FIRST;$i--){$t=$t.Insert($s[$i].Extent.EndOffset,\"`nif(!`$?ALSO){if(`$LASTEXITCODE){exit `$LASTEXITCODE};exit 1}\")}
}
$ErrorActionPreference='PREFERENCE';$global:LASTEXITCODE=0;$ended=$false
do{TRY{
  if($given.Length){
    $lines=([Text.Encoding]::UTF8.GetString($given.ToArray()) -replace '\\r?\\n\\z','') -split '\\r?\\n'
    $lines|. ([scriptblock]::Create($t))
  }else{. ([scriptblock]::Create($t))}
}CATCH
$ended=$true}while($false)
if(!$ended){[Console]::Error.WriteLine('a break or continue outside of a loop ended the script');exit 1}
END";
/// What an error does to a script, except to one that stops at nothing.
const CATCH: &str = "catch{[Console]::Error.WriteLine(($_|Out-String).TrimEnd());exit 1}";
/// The end of a script: the status of the last program that it ran.
const LAST_STATUS: &str = "if($LASTEXITCODE){exit $LASTEXITCODE}\nexit 0\n";
/// A script for `cmd` is a file: on a command line it would be read twice.
const CMD: &str = "$f=[IO.Path]::Combine([IO.Path]::GetTempPath(),'vmdeck-'+$n+'.cmd')
[IO.File]::WriteAllText($f,[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('SCRIPT')),(New-Object Text.UTF8Encoding $false))
try{& $env:ComSpec ARGUMENTS $f}finally{Remove-Item -LiteralPath $f -Force -ErrorAction SilentlyContinue}
exit $LASTEXITCODE
";

/// Returns the text that runs a command's script by the rules of its shell.
pub(super) fn text(command: &RemoteCommand) -> String {
    let text = &command.script;
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let run = |first: &str, is_plain: bool| {
        let (preference, also, end) =
            if is_plain { ("Continue", "", "exit 0\n") } else { ("Stop", " -and `$LASTEXITCODE", LAST_STATUS) };
        let (open, catch) = if is_plain { ("if(1)", "") } else { ("try", CATCH) };
        let run = RUN.replace("FIRST", first).replace("ALSO", also).replace("PREFERENCE", preference);
        let run = run.replace("TRY", open).replace("CATCH", catch).replace("END", end);
        run.replace("SCRIPT", &encoded(text))
    };
    match &command.shell {
        ScriptShell::Plain => run("$s.Count-1", true),
        ScriptShell::Sh | ScriptShell::PowerShell if !has_several_lines(text) => run("$s.Count-1", false),
        ScriptShell::Sh | ScriptShell::PowerShell | ScriptShell::Strict => run("0", false),
        ScriptShell::Bash => handed(&["bash", "-e", "-o", "pipefail", "-c"].map(str::to_owned), text),
        ScriptShell::Command(words) if is_cmd(words) => {
            let arguments: Vec<String> = words[1..].iter().map(|word| quote(word)).collect();
            let arguments = if arguments.is_empty() { "'/d' '/c'".to_owned() } else { arguments.join(" ") };
            // Each line ends as that program wants it.
            let lines: String = text.lines().map(|line| format!("{line}\r\n")).collect();
            CMD.replace("ARGUMENTS", &arguments).replace("SCRIPT", &encoded(&format!("@echo off\r\n{lines}")))
        }
        ScriptShell::Command(words) => handed(words, text),
    }
}

fn is_cmd(words: &[String]) -> bool {
    words.first().is_some_and(|word| word.eq_ignore_ascii_case("cmd") || word.eq_ignore_ascii_case("cmd.exe"))
}

/// Returns the text that hands a script to another program, as its last argument.
fn handed(words: &[String], text: &str) -> String {
    let program = words.first().map_or("", String::as_str);
    let missing = format!("there is no `{program}` in the guest, which `shell` asks for");
    let arguments: Vec<String> = words.iter().skip(1).map(String::as_str).chain([text]).map(argument).collect();
    // One that cannot be started is an error, and must not look like one that went well.
    format!(
        "$c=Get-Command {} -CommandType Application -ErrorAction SilentlyContinue|Select-Object -First 1\n\
         if(!$c){{[Console]::Error.WriteLine({});exit 127}}\n\
         $global:LASTEXITCODE=127;& $c.Source {}\nexit $LASTEXITCODE\n",
        quote(program),
        quote(&missing),
        arguments.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shell: ScriptShell, script: &str) -> String {
        text(&RemoteCommand { shell, ..RemoteCommand::new(script) })
    }

    #[test]
    fn several_lines_end_at_the_first_that_fails() {
        let one = of(ScriptShell::Sh, "a; b");
        assert!(one.contains("-ge $s.Count-1") && one.contains("'Stop'") && one.ends_with(LAST_STATUS), "{one}");
        for text in [of(ScriptShell::Sh, "a\nb"), of(ScriptShell::Strict, "a")] {
            assert!(text.contains("-ge 0;") && text.contains("'Stop'"), "{text}");
        }
        let plain = of(ScriptShell::Plain, "a\nb");
        assert!(
            plain.contains("-ge $s.Count-1") && plain.contains("'Continue'") && plain.ends_with("exit 0\n"),
            "{plain}"
        );
    }

    #[test]
    fn no_script_becomes_a_part_of_our_own_text() {
        let script = "END FIRST PREFERENCE SCRIPT '@ \"";
        let text = of(ScriptShell::Sh, script);
        assert!(text.contains(&BASE64_STANDARD.encode(script)) && !text.contains("'@ \""), "{text}");
    }

    #[test]
    fn other_shells_get_it_in_their_own_way() {
        let cmd = of(ScriptShell::Command(vec!["cmd".into()]), "dir\nexit /b 3");
        assert!(cmd.contains("& $env:ComSpec '/d' '/c' $f"), "{cmd}");
        assert!(cmd.contains(&BASE64_STANDARD.encode("@echo off\r\ndir\r\nexit /b 3\r\n")), "{cmd}");
        let python = of(ScriptShell::Command(vec!["python".into(), "-c".into()]), "print('x')");
        assert!(python.contains("& $c.Source '-c' 'print(''x'')'"), "{python}");
    }
}
