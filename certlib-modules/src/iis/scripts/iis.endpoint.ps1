# certlib:iis.endpoint 1
# Makes an entry of http.sys show a certificate, or takes the entry away.
# in:  {key: "0.0.0.0:443" | "[::]:443" | "host:443", by: "ipport" | "hostnameport", thumbprint: hex | null, store,
#       appid: "{guid}", there: bool}
# out: {}
param($in)
$key="$($in.by)=$($in.key)"
if(-not $in.thumbprint){
  if($in.there){
    netsh http delete sslcert $key|Out-Null
    if($LASTEXITCODE -ne 0){throw 'certlib:endpoint_refused'}
  }
  return @{}
}
$rest=@("certhash=$($in.thumbprint)","appid=$($in.appid)","certstorename=$($in.store)")
if($in.there){
  # In one step, where Windows can: from build 14393 on.
  netsh http update sslcert $key @rest|Out-Null
  if($LASTEXITCODE -eq 0){return @{}}
  netsh http delete sslcert $key|Out-Null
}
netsh http add sslcert $key @rest|Out-Null
if($LASTEXITCODE -ne 0){throw 'certlib:endpoint_refused'}
@{}
