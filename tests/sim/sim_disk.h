/* A disk below daemon/io, for the real disk tier in the simulated world.
 *
 * sim_disk.c takes the place of the backends of daemon/io (io_uring, threads): the engine of requests above
 * it is the real one. Requests end in random order, when the loop takes their events. Data lie in real files,
 * so that the tier's own opening and locking is the real one too, and what a drive may still forget lies in a
 * journal: a write is in the file at once, and leaves the journal when a sync that began later succeeds. A
 * sync that fails leaves its writes in the journal as long as the process lives, as a kernel does that marks
 * pages clean which did not arrive. A crash takes back, sector by sector, what was in the journal.
 *
 * One disk at a time; not for threads. */
#ifndef KVC_SIM_DISK_H
#define KVC_SIM_DISK_H

#include "tests/sim/sim.h"

#define SIM_SECTOR 512u

/* Faults by kind: one in n requests that can have it; 0: never. */
enum sim_disk_fault {
	SIM_READ_ERROR,
	SIM_READ_FLIP,      /* one bit, on the way */
	SIM_READ_MISDIRECT, /* of another place of the file */
	SIM_ROT,            /* one bit of what is to be read, at rest */
	SIM_WRITE_ERROR,    /* after none or some of its sectors */
	SIM_WRITE_TORN,     /* only the first sectors, told as a success */
	SIM_WRITE_HOLES,    /* any subset of the sectors, told as a success */
	SIM_WRITE_LOST,     /* none, told as a success */
	SIM_WRITE_FLIP,
	SIM_WRITE_MISDIRECT, /* to another page of the file, told as a success */
	SIM_SYNC_ERROR,
	SIM_FULL,  /* ENOSPC */
	SIM_SHORT, /* transfers that stop early, and say so */
	SIM_AGAIN, /* EAGAIN */
	SIM_SLOW,  /* 1 to 60 s */
	SIM_HANG,  /* until sim_disk_release or a crash */
	SIM_DISK_FAULTS,
};

enum sim_loss {
	SIM_PROCESS,   /* the process ends: what was under way arrives in part, the rest is there */
	SIM_POWER,     /* any subset of the sectors that were not synced arrives */
	SIM_POWER_ALL, /* none of them does */
};

/* A new disk, empty journal, no faults. `random` is borrowed. */
void sim_disk_open(struct sim_random *random);
void sim_disk_close(void);

void sim_disk_fault_set(enum sim_disk_fault fault, uint32_t one_in);
void sim_disk_faults_clear(void);

/* The process has begun anew: syncs cover again what one failed for. (So it is with O_DIRECT, where nothing
 * but the drive's own cache lies below. In a page cache those pages would stay clean, unseen by all.) */
void sim_disk_new_process(void);

/* Faults of that kind that were carried out, since sim_disk_open. */
uint64_t sim_disk_count(enum sim_disk_fault fault);

/* Requests that hang go on. */
void sim_disk_release(void);

/* From here on nothing reaches the disk, and requests under way end soon. */
void sim_disk_crash(void);

/* When nothing is open any more: what was lost is taken back, and the disk works again. */
void sim_disk_restart(enum sim_loss loss);

/* Writes in the journal. */
uint32_t sim_disk_unsynced(void);

#endif
