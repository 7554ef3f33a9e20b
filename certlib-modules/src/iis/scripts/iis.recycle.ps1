# certlib:iis.recycle 1
# in:  {pools: [name]}
# out: {}
param($in)
Import-Module WebAdministration
foreach($pool in $in.pools){
  if((Get-WebAppPoolState -Name $pool).Value -eq 'Started'){Restart-WebAppPool -Name $pool}
}
@{}
