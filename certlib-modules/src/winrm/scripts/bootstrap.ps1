# certlib:bootstrap 1
$ErrorActionPreference='Stop'
$ProgressPreference='SilentlyContinue'
$WarningPreference='SilentlyContinue'
$utf8=New-Object Text.UTF8Encoding $false
$status=0
try{
$lines=New-Object IO.StreamReader([Console]::OpenStandardInput(),[Text.Encoding]::ASCII)
$code=$utf8.GetString([Convert]::FromBase64String($lines.ReadLine()))
$data=ConvertFrom-Json $utf8.GetString([Convert]::FromBase64String($lines.ReadLine()))
$answer=@{ok=(&([ScriptBlock]::Create($code)) $data)}
}catch{
$e=$_.Exception
while($e.InnerException){$e=$e.InnerException}
$own=''
if($e.Message -cmatch '^certlib:([a-z_]+)$'){$own=$Matches[1]}
$answer=@{error=@{code=$own;type=$e.GetType().FullName;hresult=$e.HResult}}
$status=1
}
$text=ConvertTo-Json $answer -Compress -Depth 6
[Console]::Out.WriteLine('certlib:'+[Convert]::ToBase64String($utf8.GetBytes($text)))
exit $status
