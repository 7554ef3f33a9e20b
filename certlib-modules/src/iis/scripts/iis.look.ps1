# certlib:iis.look 1
# in:  {store}
# out: {build, elevated, web_administration,
#       bindings: [{site, info: "ip:port:host", hash: hex | "", store, flags}],
#       endpoints: [{key: "0.0.0.0:443" | "host:443", hash, appid, store}],
#       certificates: [{thumbprint, sha256, friendly_name, has_key, not_after: seconds}], sites: [name], pools: [name]}
param($in)
$principal=New-Object Security.Principal.WindowsPrincipal ([Security.Principal.WindowsIdentity]::GetCurrent())
$out=@{build=[Environment]::OSVersion.Version.Build;
  elevated=$principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator);
  web_administration=$false;bindings=@();sites=@();pools=@()}
if(Get-Module -ListAvailable WebAdministration){
  Import-Module WebAdministration
  $out.web_administration=$true
  $out.sites=@(Get-ChildItem IIS:\Sites|ForEach-Object{$_.Name})
  $out.pools=@(Get-ChildItem IIS:\AppPools|ForEach-Object{$_.Name})
  $out.bindings=@(foreach($site in $out.sites){
    foreach($b in @(Get-WebBinding -Name $site -Protocol https)){
      @{site=$site;info=$b.bindingInformation;hash=[string]$b.certificateHash;store=[string]$b.certificateStoreName;
        flags=[int]$b.sslFlags}
    }
  })
}
# Labels are in the system's language; the order of the lines is not.
$endpoints=New-Object Collections.ArrayList
$block=New-Object Collections.ArrayList
foreach($line in @(netsh http show sslcert)+''){
  if($line -match '^\s+\S.*?\s+:\s(.*)$'){[void]$block.Add($Matches[1].Trim());continue}
  if($line.Trim() -eq '' -and $block.Count -ge 4){
    if($block[1] -match '^[0-9A-Fa-f]{40}$'){
      [void]$endpoints.Add(@{key=$block[0];hash=$block[1].ToUpperInvariant();appid=$block[2];store=$block[3]})
    }
  }
  if($line.Trim() -eq ''){$block.Clear()}
}
$out.endpoints=$endpoints.ToArray()
$epoch=New-Object DateTime(1970,1,1,0,0,0,[DateTimeKind]::Utc)
$sha=[Security.Cryptography.SHA256]::Create()
$store=New-Object Security.Cryptography.X509Certificates.X509Store($in.store,'LocalMachine')
$store.Open('ReadOnly,OpenExistingOnly')
try{
  $out.certificates=@(foreach($c in $store.Certificates){
    @{thumbprint=$c.Thumbprint.ToUpperInvariant();
      sha256=[BitConverter]::ToString($sha.ComputeHash($c.RawData)).Replace('-','').ToLowerInvariant();
      friendly_name=[string]$c.FriendlyName;has_key=$c.HasPrivateKey;
      not_after=[int64]($c.NotAfter.ToUniversalTime()-$epoch).TotalSeconds}
  })
}finally{$store.Close()}
$out
