/* The service manager's side: systemd's notification socket, passed sockets, watchdog. Without a manager
 * these do nothing. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "daemon/base/log.h"
#include "daemon/main/daemon.h"

void kvc_notify(const char *state)
{
	int result = sd_notify(0, state);

	if (result < 0)
		kvc_debug("service manager not told '%s': error %d", state, -result);
}

void kvc_notify_status(const char *text)
{
	char state[256];

	snprintf(state, sizeof state, "STATUS=%s", text);
	kvc_notify(state);
}

kvc_status kvc_notify_socket(int *fd)
{
	int count = sd_listen_fds(1);

	if (count == 0)
		return KVC_MISS;
	if (count != 1 || sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) <= 0 ||
	    fcntl(SD_LISTEN_FDS_START, F_SETFL, O_NONBLOCK))
		return KVC_INVALID;
	*fd = SD_LISTEN_FDS_START;
	return KVC_OK;
}

uint64_t kvc_notify_watchdog_ms(void)
{
	uint64_t microseconds;

	return sd_watchdog_enabled(1, &microseconds) > 0 ? microseconds / 1000 : 0;
}
