# in daemon/tier/disk_segment.c
# A segment that is given up is free at once, while loads read from it.
/^static void reclaim_end/,/^}/ s/ || segment->loads || segment->writes/ || segment->writes/
