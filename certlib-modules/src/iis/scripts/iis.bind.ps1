# certlib:iis.bind 1
# Makes one https binding show a certificate, or none.
# in:  {site, info: "ip:port:host", thumbprint: hex | null, store, flags, create: bool, remove: bool}
# out: {hash}
param($in)
Import-Module WebAdministration
function Find{
  @(Get-WebBinding -Name $in.site -Protocol https | Where-Object {$_.bindingInformation -eq $in.info})[0]
}
$binding=Find
if($in.remove){
  if($binding){$binding|Remove-WebBinding}
  return @{hash=''}
}
$cut=$in.info.LastIndexOf(':')
$name=$in.info.Substring($cut+1)
$address=$in.info.Substring(0,$cut)
$cut=$address.LastIndexOf(':')
$port=[int]$address.Substring($cut+1)
$address=$address.Substring(0,$cut)
if(-not $binding){
  if(-not $in.create){throw 'certlib:binding_missing'}
  $arguments=@{Name=$in.site;Protocol='https';IPAddress=$address;Port=$port;SslFlags=$in.flags -band 3}
  if($name){$arguments.HostHeader=$name}
  New-WebBinding @arguments
  $binding=Find
}
if($in.thumbprint){
  for($try=1;;$try++){
    try{$binding.AddSslCertificate($in.thumbprint,$in.store);break}catch{
      $e=$_.Exception
      while($e.InnerException){$e=$e.InnerException}
      if($e.HResult -eq 0x800700B7){
        # There is an entry already: exchange its certificate, and keep whose it is.
        if($name -and ($binding.sslFlags -band 1)){$key="hostnameport=$($name):$port"}
        elseif($address -eq '*'){$key="ipport=0.0.0.0:$port"}
        else{$key="ipport=$($address):$port"}
        $shown=(netsh http show sslcert $key) -join ' '
        if($shown -notmatch '\{[0-9A-Fa-f-]{36}\}'){throw 'certlib:endpoint_refused'}
        netsh http update sslcert $key "certhash=$($in.thumbprint)" "appid=$($Matches[0])" "certstorename=$($in.store)"|Out-Null
        if($LASTEXITCODE -ne 0){throw 'certlib:endpoint_refused'}
        break
      }
      # A key that was just imported may not be there for a moment.
      if($try -ge 3){throw}
      Start-Sleep -Milliseconds 500
    }
  }
}elseif([string]$binding.certificateHash){$binding.RemoveSslCertificate()}
@{hash=[string](Find).certificateHash}
