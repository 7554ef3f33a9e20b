# certlib:iis.import 1
# in:  {store, pfx: base64, password, friendly_name, exportable: bool, thumbprint, chain: [base64 DER]}
# out: {thumbprint, has_key}
param($in)
$flags='MachineKeySet,PersistKeySet'
if($in.exportable){$flags+=',Exportable'}
$flags=[Security.Cryptography.X509Certificates.X509KeyStorageFlags]$flags
$bytes=[Convert]::FromBase64String($in.pfx)
$cert=New-Object Security.Cryptography.X509Certificates.X509Certificate2($bytes,$in.password,$flags)
if($cert.Thumbprint -ne $in.thumbprint){throw 'certlib:pfx_mismatch'}
if(-not $cert.HasPrivateKey){throw 'certlib:key_not_imported'}
$cert.FriendlyName=$in.friendly_name
$store=New-Object Security.Cryptography.X509Certificates.X509Store($in.store,'LocalMachine')
$store.Open('ReadWrite,OpenExistingOnly')
try{
  $store.Add($cert)
  $there=@($store.Certificates.Find('FindByThumbprint',$in.thumbprint,$false))
  if($there.Count -ne 1){throw 'certlib:import_lost'}
  $has=$there[0].HasPrivateKey
}finally{$store.Close()}
$issuers=New-Object Security.Cryptography.X509Certificates.X509Store('CA','LocalMachine')
$issuers.Open('ReadWrite,OpenExistingOnly')
try{
  foreach($der in $in.chain){
    $issuer=New-Object Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList @(,[Convert]::FromBase64String($der))
    # Roots are for the administrator to trust, not for a delivery.
    if($issuer.Subject -ne $issuer.Issuer){$issuers.Add($issuer)}
  }
}finally{$issuers.Close()}
@{thumbprint=$cert.Thumbprint.ToUpperInvariant();has_key=$has}
