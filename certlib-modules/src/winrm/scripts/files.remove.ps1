# certlib:files.remove 1
# in:  {paths: [path]}
# out: {}
param($in)
foreach($path in $in.paths){
  if(-not [IO.Directory]::Exists([IO.Path]::GetDirectoryName($path))){continue}
  for($try=1;;$try++){
    try{[IO.File]::Delete($path);break}catch{
      if($_.Exception.InnerException -isnot [IO.IOException] -or $try -ge 20){throw}
      Start-Sleep -Milliseconds 250
    }
  }
}
@{}
