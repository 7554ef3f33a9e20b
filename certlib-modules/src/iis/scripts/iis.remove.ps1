# certlib:iis.remove 1
# Removes a certificate and its key, if it bears our mark and nothing shows it.
# in:  {store, thumbprint, marker}
# out: {removed: bool}
param($in)
$used=$false
if(Get-Module -ListAvailable WebAdministration){
  Import-Module WebAdministration
  foreach($b in @(Get-WebBinding -Protocol https)){if($b.certificateHash -eq $in.thumbprint){$used=$true}}
}
foreach($line in @(netsh http show sslcert)){if($line -match $in.thumbprint){$used=$true}}
$removed=$false
if(-not $used){
  $path="Cert:\LocalMachine\$($in.store)\$($in.thumbprint)"
  $cert=Get-Item -LiteralPath $path -ErrorAction SilentlyContinue
  if($cert -and $cert.FriendlyName.StartsWith($in.marker,[StringComparison]::Ordinal)){
    Remove-Item -LiteralPath $path -DeleteKey
    $removed=$true
  }
}
@{removed=$removed}
