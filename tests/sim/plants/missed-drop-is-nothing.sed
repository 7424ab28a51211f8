# in daemon/tier/disk_keyring.c
# Who has dropped a tenant most often is right, whatever it missed, unless the other did as often.
s/missed |= row && !follows(&most, row);/missed |= row \&\& row->incarnation == most.incarnation \&\& !follows(\&most, row);/
