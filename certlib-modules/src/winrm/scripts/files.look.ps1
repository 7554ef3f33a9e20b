# certlib:files.look 1
# in:  {files: [path], content: bool, limit: bytes, directories: [path], root: path | null, names: [account]}
# out: {files: [{kind: "absent" | "file" | "other" | "link" | "large", size, sha256, content: base64 | null, sddl}],
#       directories: [{exists, writable_bytes: number | null, escapes}], sids: [sid | null]}
param($in)
$sections=[Security.AccessControl.AccessControlSections]'Owner,Group,Access'
$link=[IO.FileAttributes]::ReparsePoint
function Look($path){
  $item=Get-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue
  if($null -eq $item){
    if([IO.File]::Exists($path) -or [IO.Directory]::Exists($path)){throw 'certlib:unreadable'}
    return @{kind='absent'}
  }
  if($item.Attributes -band $link){return @{kind='link'}}
  if($item -isnot [IO.FileInfo]){return @{kind='other'}}
  if($item.Length -gt $in.limit){return @{kind='large';size=$item.Length}}
  $share=[IO.FileShare]'ReadWrite,Delete'
  $stream=New-Object IO.FileStream($path,[IO.FileMode]::Open,[IO.FileAccess]::Read,$share)
  try{
    $memory=New-Object IO.MemoryStream
    $stream.CopyTo($memory)
  }finally{$stream.Dispose()}
  $bytes=$memory.ToArray()
  if($bytes.Length -gt $in.limit){return @{kind='large';size=$bytes.Length}}
  $hash=[Security.Cryptography.SHA256]::Create().ComputeHash($bytes)
  $content=$null
  if($in.content){$content=[Convert]::ToBase64String($bytes)}
  $security=New-Object Security.AccessControl.FileSecurity($path,$sections)
  @{kind='file';size=$bytes.Length;sha256=[BitConverter]::ToString($hash).Replace('-','').ToLowerInvariant();
    content=$content;sddl=$security.GetSecurityDescriptorSddlForm($sections)}
}
function Enter($path){
  if(-not [IO.Directory]::Exists($path)){return @{exists=$false;writable_bytes=$null;escapes=$false}}
  $free=$null
  if($path -match '^[A-Za-z]:'){
    try{$free=(New-Object IO.DriveInfo $path.Substring(0,1)).AvailableFreeSpace}catch{}
  }
  $escapes=$false
  if($in.root){
    $at=$path
    while($at -and $at.Length -gt $in.root.TrimEnd('\').Length){
      if((Get-Item -LiteralPath $at -Force).Attributes -band $link){$escapes=$true}
      $at=[IO.Path]::GetDirectoryName($at)
    }
  }
  @{exists=$true;writable_bytes=$free;escapes=$escapes}
}
function Sid($name){
  try{(New-Object Security.Principal.NTAccount $name).Translate([Security.Principal.SecurityIdentifier]).Value}catch{$null}
}
@{files=@($in.files|ForEach-Object{Look $_});
  directories=@($in.directories|ForEach-Object{Enter $_});
  sids=@($in.names|ForEach-Object{Sid $_})}
