# in daemon/tier/disk_prepare.c
# A new segment's name is not made durable.
/case DISK_PREPARE_ALLOCATE:/,/break;/ s/if (!prepare->segment->named)/if (prepare->segment == NULL)/
