# in daemon/tier/disk_keyring.c
# A key is used when it was written, whether it is on stable storage or not.
s/io_start(disk, DISK_KEYRING_SYNC, KVC_IO_SYNC, other)/update_take(disk)/
