//! Moves files to and from a guest with PowerShell, through a session's commands.
//!
//! An archive comes in as input and is unpacked by `tar.exe`, which Windows has since 2018; one that goes out is written by a few lines of
//! our own, since that program takes no list of names in Unicode.

use super::{
    archive_input::run_unpack,
    artifact_globs::FolderWalk,
    session::{CommandRunner, FileTransfer, Received},
    spool::Spool,
};
use crate::command::{Input, RemoteCommand, powershell};
use futures_util::future::BoxFuture;
use std::{fs::File, sync::Arc};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{error::Result, suite::ScriptShell};

/// Writes what comes to a file, piece by piece, so that no archive is too large for the guest's memory.
const RECEIVE: &str = "$archive=[IO.Path]::Combine([IO.Path]::GetTempPath(),'vmdeck-'+$n+'.tar')
$file=[IO.File]::Create($archive)
$onLine={$b=[Convert]::FromBase64String($_);$file.Write($b,0,$b.Length)}";
/// Replaces the folder by what is in the archive. What stands for the folder is put in.
const UNPACK: &str = "$file.Close()
try{
  if(!(Get-Command tar.exe -ErrorAction SilentlyContinue)){throw 'there is no tar.exe in the guest, which Windows has from 10 version 1803 and Server 2019 on'}
  $to=TO
  if(Test-Path -LiteralPath $to){Remove-Item -LiteralPath $to -Recurse -Force}
  [void][IO.Directory]::CreateDirectory($to)
  & tar.exe -xf $archive -C $to --options hdrcharset=UTF-8
  if($LASTEXITCODE){exit $LASTEXITCODE}
}finally{Remove-Item -LiteralPath $archive -Force -ErrorAction SilentlyContinue}";

/// Writes an archive (ustar, with GNU's long names) to standard output.
const PACK: &str = "$out=[Console]::OpenStandardOutput();$bad=0;$done=@{}
function Add-Header($name,$size,$kind){
  $h=New-Object byte[] 512;$u=[Text.Encoding]::UTF8.GetBytes($name)
  [Array]::Copy($u,0,$h,0,[Math]::Min($u.Length,100))
  $put={param($at,$text)$b=[Text.Encoding]::ASCII.GetBytes($text);[Array]::Copy($b,0,$h,$at,$b.Length)}
  & $put 100 '0000644';& $put 108 '0000000';& $put 116 '0000000';& $put 136 '00000000000'
  & $put 124 ([Convert]::ToString([long]$size,8).PadLeft(11,'0'));& $put 148 '        '
  $h[156]=[byte][char]$kind;& $put 257 'ustar  '
  $sum=0;foreach($x in $h){$sum+=$x}
  & $put 148 ([Convert]::ToString($sum,8).PadLeft(6,'0'));$h[154]=0;$h[155]=32
  $out.Write($h,0,512)
}
function Add-Padding($size){$r=$size%512;if($r){$out.Write((New-Object byte[] (512-$r)),0,512-$r)}}
function Add-File($path,$name){
  if($done[$name]){return};$done[$name]=1
  try{$in=[IO.File]::Open($path,'Open','Read','ReadWrite,Delete')}catch{[Console]::Error.WriteLine($name+': '+$_.Exception.InnerException.Message);$script:bad=1;return}
  try{
    $u=[Text.Encoding]::UTF8.GetBytes($name)
    if($u.Length -gt 100){Add-Header '././@LongLink' ($u.Length+1) 'L';$out.Write($u,0,$u.Length);$out.WriteByte(0);Add-Padding ($u.Length+1)}
    $left=$in.Length;$size=$left;Add-Header $name $size '0';$b=New-Object byte[] 65536
    while($left -gt 0){
      $r=$in.Read($b,0,[int][Math]::Min($left,65536))
      if($r -le 0){$r=[int][Math]::Min($left,65536);[Array]::Clear($b,0,$r);$script:bad=1;[Console]::Error.WriteLine($name+': it became shorter meanwhile')}
      $out.Write($b,0,$r);$left-=$r
    }
    Add-Padding $size
  }finally{$in.Close()}
}";

/// Writes what changes when somebody writes a file.
const STAMP: &str = "[Console]::OutputEncoding=New-Object Text.UTF8Encoding $false
function Add-File($path,$name){
  $i=New-Object IO.FileInfo $path
  [Console]::Out.WriteLine($i.Length.ToString()+' '+$i.LastWriteTimeUtc.Ticks+' '+$i.CreationTimeUtc.Ticks+\"`t\"+$name)
}";

/// Calls `Add-File` with every file that a walk names. What stands for the walks, each a folder
/// and a regular expression for the path below it, is put in.
const WALK: &str = "$here=(Get-Location -PSProvider FileSystem).ProviderPath.TrimEnd('\\')
$walks=New-Object Collections.ArrayList
WALKS
foreach($walk in $walks){
  $root=$walk[0];$full=if($root -eq ''){$here}elseif([IO.Path]::IsPathRooted($root)){$root}else{[IO.Path]::Combine($here,$root)}
  if([IO.File]::Exists($full)){Add-File $full $root;continue}
  if(![IO.Directory]::Exists($full)){continue}
  $full=(Get-Item -LiteralPath $full -Force).FullName.TrimEnd('\\')
  Get-ChildItem -LiteralPath $full -Recurse -File -Force -ErrorAction SilentlyContinue|ForEach-Object{
    $below=$_.FullName.Substring($full.Length+1).Replace('\\','/')
    if($below -match $walk[1]){Add-File $_.FullName $(if($root -eq ''){$below}else{$root.Replace('\\','/').TrimEnd('/')+'/'+$below})}
  }
}";

/// Ends the archive.
const END: &str = "$out.Write((New-Object byte[] 1024),0,1024);$out.Flush()
exit $bad";

/// Moves files with PowerShell.
pub(super) struct PowerShellTransfer<'a> {
    /// Runs the commands.
    pub(super) runner: &'a dyn CommandRunner,
}

impl FileTransfer for PowerShellTransfer<'_> {
    fn send<'a>(&'a self, archive: Arc<File>, to: &'a str, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let unpack = RemoteCommand {
                stdin: Input::Unnamed(archive),
                prepare: RECEIVE.to_owned(),
                shell: ScriptShell::Sh,
                ..RemoteCommand::new(UNPACK.replace("TO", &powershell::quote(to)))
            };
            run_unpack(self.runner, &unpack, cancel).await
        })
    }

    fn fetch<'a>(
        &'a self,
        globs: &'a [String],
        base: &'a RemoteCommand,
        archive: &'a File,
        limit: u64,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Received>> {
        Box::pin(async move {
            let command = RemoteCommand {
                script: pack_script(globs),
                shell: ScriptShell::Plain,
                stdin: Input::Empty,
                ..base.clone()
            };
            Spool::receive(self.runner, &command, archive, limit, cancel).await
        })
    }
}

/// Returns the script that packs what the globs name.
fn pack_script(globs: &[String]) -> String {
    format!("{PACK}\n{}\n{END}", walk_script(globs))
}

/// Returns a script that writes a line for each file that the globs name: what changes when somebody writes it, a tab, and its path.
pub(super) fn stamp_script(globs: &[String]) -> String {
    format!("{STAMP}\n{}\nexit 0", walk_script(globs))
}

/// Returns the part of a script that finds what the globs name.
fn walk_script(globs: &[String]) -> String {
    let quote = powershell::quote;
    let add = |walk: FolderWalk| format!("[void]$walks.Add(@({},{}))", quote(&walk.root), quote(&walk.pattern));
    let walks = FolderWalk::of(globs).into_iter().map(add).collect::<Vec<_>>().join("\n");
    WALK.replace("WALKS", &walks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_become_walks() {
        let script = pack_script(&["out/*.xml".into(), "C:/it's/**/a.log".into()]);
        assert!(script.contains("@('out','^(?:"), "{script}");
        assert!(script.contains("@('C:/it''s',"), "{script}");
    }
}
