"""Other addresses for a card of a Windows guest, as texts for its PowerShell: pure.

What New-NetIPAddress sets is kept over a restart. What the card had before is written down in the guest, once.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable

from mudanza.protection.lasting import Card

PROGRAM = r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe"
SYSTEM = "mswindows"
"""What the agent calls such a guest's system."""

_CARD = """\
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$card = Get-NetAdapter | Where-Object MacAddress -eq $mac | Select-Object -First 1
if (-not $card) { Write-Output "no card has the address $mac"; exit 1 }
$index = $card.ifIndex
$kept = Join-Path $env:ProgramData "mudanza\\addresses-$($mac -replace '-', '').json"
function Clear-Card {
  Get-NetIPAddress -InterfaceIndex $index -AddressFamily $family -ErrorAction SilentlyContinue |
    Where-Object IPAddress -notlike 'fe80*' | Remove-NetIPAddress -Confirm:$false -ErrorAction SilentlyContinue
  Get-NetRoute -InterfaceIndex $index -DestinationPrefix $all -ErrorAction SilentlyContinue |
    Remove-NetRoute -Confirm:$false -ErrorAction SilentlyContinue
}
"""
_GIVE = """\
if (-not (Test-Path $kept)) {
  New-Item -ItemType Directory -Force (Split-Path $kept) | Out-Null
  $before = @{
    family = $family
    all = $all
    dhcp = "$((Get-NetIPInterface -InterfaceIndex $index -AddressFamily $family).Dhcp)"
    addresses = @(Get-NetIPAddress -InterfaceIndex $index -AddressFamily $family -PrefixOrigin Manual `
      -ErrorAction SilentlyContinue | ForEach-Object { "$($_.IPAddress)/$($_.PrefixLength)" })
    gateways = @(Get-NetRoute -InterfaceIndex $index -DestinationPrefix $all -ErrorAction SilentlyContinue |
      ForEach-Object { $_.NextHop })
    dns = @((Get-DnsClientServerAddress -InterfaceIndex $index -AddressFamily $family).ServerAddresses)
  }
  $before | ConvertTo-Json | Set-Content -Encoding UTF8 "$kept.new"
  Move-Item -Force "$kept.new" $kept
}
Set-NetIPInterface -InterfaceIndex $index -AddressFamily $family -Dhcp Disabled
Clear-Card
$new = @{ InterfaceIndex = $index; AddressFamily = $family; IPAddress = $address; PrefixLength = $prefix }
if ($gateway) { $new.DefaultGateway = $gateway }
New-NetIPAddress @new | Out-Null
if ($dns) { Set-DnsClientServerAddress -InterfaceIndex $index -ServerAddresses $dns }
"""
_BACK = """\
if (-not (Test-Path $kept)) { exit 0 }
$before = Get-Content -Raw -Encoding UTF8 $kept | ConvertFrom-Json
$family = $before.family
$all = $before.all
Clear-Card
if ($before.dhcp -eq 'Enabled') {
  Set-NetIPInterface -InterfaceIndex $index -AddressFamily $family -Dhcp Enabled
  Set-DnsClientServerAddress -InterfaceIndex $index -ResetServerAddresses
} else {
  foreach ($each in $before.addresses) {
    $address, $prefix = $each -split '/'
    New-NetIPAddress -InterfaceIndex $index -AddressFamily $family -IPAddress $address -PrefixLength $prefix | Out-Null
  }
  foreach ($each in $before.gateways) {
    New-NetRoute -InterfaceIndex $index -DestinationPrefix $all -NextHop $each | Out-Null
  }
  if ($before.dns) { Set-DnsClientServerAddress -InterfaceIndex $index -ServerAddresses $before.dns }
}
Remove-Item -Force $kept
"""


def giving(card: Card) -> str:
    """Return what gives a card its address."""
    found = ipaddress.ip_interface(card.address)
    words = {
        "mac": _text(card.mac.upper().replace(":", "-")),
        "family": _text(f"IPv{found.version}"),
        "all": _text("0.0.0.0/0" if found.version == 4 else "::/0"),
        "address": _text(str(found.ip)),
        "prefix": str(found.network.prefixlen),
        "gateway": _text(card.gateway),
        "dns": _texts(card.dns),
    }
    return "".join(f"${name} = {value}\n" for name, value in words.items()) + _CARD + _GIVE


def taking_back(mac: str) -> str:
    """Return what has a card be as it was before; done once more it changes nothing."""
    return f"$mac = {_text(mac.upper().replace(':', '-'))}\n" + _CARD + _BACK


def words_for(script: str) -> list[str]:
    """Return the arguments by which PowerShell runs a script."""
    encoded = base64.b64encode(script.encode("utf-16-le")).decode()
    return ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-EncodedCommand", encoded]


def _text(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _texts(words: Iterable[str]) -> str:
    return f"@({', '.join(map(_text, words))})"
