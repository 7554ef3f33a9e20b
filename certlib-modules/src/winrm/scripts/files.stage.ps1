# certlib:files.stage 1
# Creates a file that must not exist, with its final access list from the first moment on.
# in:  {path, content: base64, sddl: text | null}
# out: {sha256}
param($in)
$bytes=[Convert]::FromBase64String($in.content)
$mode=[IO.FileMode]::CreateNew
$none=[IO.FileShare]::None
$through=[IO.FileOptions]::WriteThrough
if($in.sddl){
  $security=New-Object Security.AccessControl.FileSecurity
  $security.SetSecurityDescriptorSddlForm($in.sddl,[Security.AccessControl.AccessControlSections]::Access)
  $rights=[Security.AccessControl.FileSystemRights]::Write
  $stream=New-Object IO.FileStream($in.path,$mode,$rights,$none,4096,$through,$security)
}else{
  $stream=New-Object IO.FileStream($in.path,$mode,[IO.FileAccess]::Write,$none,4096,$through)
}
try{$stream.Write($bytes,0,$bytes.Length);$stream.Flush($true)}finally{$stream.Dispose()}
$hash=[Security.Cryptography.SHA256]::Create().ComputeHash([IO.File]::ReadAllBytes($in.path))
@{sha256=[BitConverter]::ToString($hash).Replace('-','').ToLowerInvariant()}
