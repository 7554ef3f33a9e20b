# certlib:files.replace 1
# Sets the access list of what is there, then puts the new file in its place: a replaced file hands its list on.
# in:  {from: path | null, to: path, sddl: text | null}
# out: {gap: bool, owner_kept: bool}
param($in)
$out=@{gap=$false;owner_kept=$true}
function Protect{
  $sections=[Security.AccessControl.AccessControlSections]
  $security=New-Object Security.AccessControl.FileSecurity
  $security.SetSecurityDescriptorSddlForm($in.sddl,$sections::Access)
  (New-Object IO.FileInfo $in.to).SetAccessControl($security)
  if($in.sddl -match '^O:'){
    try{
      $security=New-Object Security.AccessControl.FileSecurity
      $security.SetSecurityDescriptorSddlForm($in.sddl,$sections::Owner)
      (New-Object IO.FileInfo $in.to).SetAccessControl($security)
    }catch{$out.owner_kept=$false}
  }
}
$there=[IO.File]::Exists($in.to)
if($in.sddl -and $there){Protect}
if($in.from){
  for($try=1;;$try++){
    try{
      if([IO.File]::Exists($in.to)){[IO.File]::Replace($in.from,$in.to,[NullString]::Value)}
      else{[IO.File]::Move($in.from,$in.to)}
      break
    }catch{
      if(-not [IO.File]::Exists($in.from)){throw}
      if($there -and -not [IO.File]::Exists($in.to)){$out.gap=$true}
      $e=$_.Exception
      while($e.InnerException){$e=$e.InnerException}
      # Somebody has the file open: it usually takes but a moment.
      if($e -isnot [IO.IOException] -or $try -ge 20){throw}
      Start-Sleep -Milliseconds 250
    }
  }
}
if($in.sddl -and -not $there){Protect}
$out
