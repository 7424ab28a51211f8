/* The one place where errno values become kvc_status. */
#ifndef KVC_ERRNO_H
#define KVC_ERRNO_H

#include "proto/kvc_status.h"

/* number: a positive errno. */
kvc_status kvc_status_of_errno(int number);

#endif
