/* errno to kvc_status. */
#include "daemon/base/errno.h"

#include <errno.h>

kvc_status kvc_status_of_errno(int number)
{
	switch (number) {
	case 0:
		return KVC_OK;
	case ENOMEM:
		return KVC_NO_MEMORY;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return KVC_NO_SPACE;
	case EACCES:
	case EPERM:
		return KVC_ACCESS;
	case EAGAIN:
	case EBUSY:
	case EMFILE:
	case ENFILE:
		return KVC_BUSY;
	case ECANCELED:
		return KVC_CANCELLED;
	case EINVAL:
		return KVC_INVALID;
	case ENOSYS:
	case EOPNOTSUPP:
		return KVC_UNSUPPORTED;
	default:
		return KVC_IO;
	}
}
