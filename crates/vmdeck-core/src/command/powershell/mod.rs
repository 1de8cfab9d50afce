//! The text that is sent to a Windows guest for one command, and the marks that come back: the same marks as for a POSIX shell.
//!
//! PowerShell itself reads the standard input of what it runs, line by line, so a command's text comes as the first line, as
//! base64, and its input as further ones. The last line is our word that all of it has come: without it nothing begins, wherever the
//! input was cut. Facts: neither the limit of a command line nor a code page is met that way.
//!
//! How it is sent is a transport's work, reading the marks is `marks`.

pub mod clixml;
mod quote;
mod script;

pub use quote::{argument, quote};

use super::{
    RemoteCommand,
    frame::{Frame, NO_DIR},
    kill,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::time::Duration;
use vmdeck_model::suite::RunAs;

/// Reads the command and its input; the nonce is put in.
const STARTER: &str = "begin{$ProgressPreference='SilentlyContinue';$ErrorActionPreference='Stop'
$n='NONCE';$onEnd=$null;$go=$false;$given=New-Object IO.MemoryStream
$onLine={$b=[Convert]::FromBase64String($_);$given.Write($b,0,$b.Length)}}
process{if($_ -eq 'go-'+$n){$go=$true}elseif($null -eq $onEnd){try{
. ([scriptblock]::Create([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($_))))
}catch{[Console]::Error.Write(\"$_\");exit 124}}else{. $onLine}}
end{if(!$go -or $null -eq $onEnd){exit 124};. $onEnd;exit 1}";

/// How long the text that ends a command may take: PowerShell starts slowly, and is given 5 s besides.
pub const KILL_LIMIT: Duration = Duration::from_secs(40);

/// Ends a process and everything below it; the pid is put in. What was started before it is no child of it, whatever its parent's
/// number says; where it is gone already, its number says nothing.
const KILL: &str = "$ids=New-Object Collections.Generic.HashSet[int];[void]$ids.Add(PID)
$root=Get-CimInstance Win32_Process -Filter 'ProcessId=PID';if(!$root -or $root.Name -notlike 'p*w*sh*'){exit 0}
$since=$root.CreationDate;$clock=[Diagnostics.Stopwatch]::StartNew();$left=@()
while($clock.Elapsed.TotalSeconds -lt 5){
  $all=@(Get-CimInstance Win32_Process -Property ProcessId,ParentProcessId,CreationDate|Where-Object{$_.CreationDate -ge $since})
  do{$before=$ids.Count;foreach($p in $all){if($ids.Contains([int]$p.ParentProcessId)){[void]$ids.Add([int]$p.ProcessId)}}}while($ids.Count -ne $before)
  $left=@($all|Where-Object{$ids.Contains([int]$_.ProcessId) -and $_.ProcessId -ne $PID})
  if(!$left.Count){exit 0}
  foreach($p in $left){Stop-Process -Id $p.ProcessId -Force -ErrorAction SilentlyContinue}
  Start-Sleep -Milliseconds 50
}
[Console]::Out.Write(($left|ForEach-Object{$_.ProcessId}) -join ' ')
exit SURVIVORS";

/// Fails where the session has no rights of an administrator.
const ELEVATED: &str = "$w=New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
if(!$w.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)){throw 'the session has no rights of an administrator'}
";

/// Returns the command line that has PowerShell run this text, as it is: words that every other shell reads alike.
pub fn line(text: &str) -> String {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let encoded = BASE64_STANDARD.encode(bytes);
    format!(
        "powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -OutputFormat Text -EncodedCommand {encoded}"
    )
}

/// Returns the line that says that all of a command's input has come.
pub fn last_line(nonce: &str) -> String {
    format!("go-{nonce}\n")
}

/// Returns the text that reads a command from its standard input and then runs it.
pub fn starter(nonce: &str) -> String {
    STARTER.replace("NONCE", nonce)
}

/// Returns what the text of [`starter`] reads first; further lines are the command's input, each as base64.
pub fn payload(frame: &Frame, command: &RemoteCommand) -> String {
    BASE64_STANDARD.encode(body(frame, command)) + "\n"
}

/// Returns the text that ends a process with everything below it.
pub fn kill_text(pid: u32) -> String {
    // Before the number is put in, which the name of a property holds as well.
    let text = KILL.replace("SURVIVORS", &kill::SURVIVORS.to_string());
    text.replace("(PID)", &format!("({pid})")).replace("=PID'", &format!("={pid}'"))
}

/// Returns the command with what comes before it: its folder and environment, our marks, and the rules of its shell.
fn body(frame: &Frame, command: &RemoteCommand) -> String {
    let mut out = String::from(
        "try{$OutputEncoding=[Console]::OutputEncoding=[Console]::InputEncoding=New-Object Text.UTF8Encoding $false}catch{}\n",
    );
    let mut variable = |name: &str, value: &str| {
        out.push_str(&format!("[Environment]::SetEnvironmentVariable({},{})\n", quote(name), quote(value)));
    };
    variable(kill::TAG, &frame.tag);
    command.env.iter().for_each(|(name, value)| variable(name, value));
    if let Some(dir) = &command.dir {
        out.push_str(&format!(
            "try{{Set-Location -LiteralPath {}}}catch{{[Console]::Error.Write(\"$_\");exit {NO_DIR}}}\n\
             [Environment]::CurrentDirectory=(Get-Location -PSProvider FileSystem).ProviderPath\n",
            quote(dir)
        ));
    }
    if command.run_as == RunAs::Root {
        out.push_str(ELEVATED);
    }
    if !command.prepare.is_empty() {
        out.push_str(&command.prepare);
        out.push('\n');
    }
    out.push_str(
        "$onEnd={[Console]::Out.Write('[out-'+$n+']');[Console]::Out.Flush()\n\
         [Console]::Error.Write('[run-'+$n+' '+$PID+']');[Console]::Error.Flush()\n",
    );
    out.push_str(&script::text(command));
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(payload: &str) -> String {
        let bytes = BASE64_STANDARD.decode(payload.trim_end()).expect("base64");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_command_line_holds_nothing_that_a_shell_could_read_otherwise() {
        let line = line("'\"$(x)` & | é");
        let words: Vec<&str> = line.split(' ').collect();
        assert!(
            words.iter().all(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || "-+/=.".contains(c))),
            "{line}"
        );
        let bytes = BASE64_STANDARD.decode(words[words.len() - 1]).expect("base64");
        let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        assert_eq!(String::from_utf16(&units).expect("UTF-16"), "'\"$(x)` & | é");
    }

    #[test]
    fn a_command_brings_its_folder_its_environment_and_its_marks() {
        let frame = Frame { nonce: "n0".into(), tag: "t0".into() };
        let command = RemoteCommand {
            dir: Some("C:\\it's here".into()),
            env: [("A B".to_owned(), "ü'".to_owned())].into(),
            run_as: RunAs::Root,
            prepare: "'first'".into(),
            ..RemoteCommand::new("Get-Item x")
        };
        let text = decoded(&payload(&frame, &command));
        for part in [
            "SetEnvironmentVariable('VMDECK_COMMAND','t0')",
            "SetEnvironmentVariable('A B','ü''')",
            "Set-Location -LiteralPath 'C:\\it''s here'",
            "exit 125",
            "Administrator",
            "\n'first'\n",
            "'[out-'+$n+']'",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("[out-n0]"), "an error that quotes the text is no mark");
        assert!(starter("n0").contains("$n='n0'"));
    }

    #[test]
    fn the_text_that_ends_a_command_names_its_process() {
        let text = kill_text(4711);
        assert!(text.contains("Add(4711)") && text.contains("ProcessId=4711'") && text.contains("-ne $PID"), "{text}");
        assert!(text.ends_with("exit 3"), "{text}");
    }
}
