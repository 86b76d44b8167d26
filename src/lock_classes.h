/*
 * lock_classes.h - the advisory locks that are evsource's own.
 *
 * Each has a class of its own in the last field of its tag, which pg_locks shows as
 * objsubid; pg_advisory_lock() has classes 1 and 2, so nobody else can take them.
 * Which comes before which is told where they are taken.
 */
#ifndef EVS_LOCK_CLASSES_H
#define EVS_LOCK_CLASSES_H

/* 229: a stream, by its name; while a transaction that appended to it is open (streams.c) */
#define EVS_LOCK_STREAM		0xE5

/* 230: a lower bound of positions, where there is no shared memory for it (horizon.c) */
#define EVS_LOCK_BOUND		0xE6

/* 231: a projection, or its rebuild, by its name; while somebody works on it (registry.c, rebuild_row.c) */
#define EVS_LOCK_NAME		0xE7

/* 232: the snapshots of a projection, or of one key (snapshots.c) */
#define EVS_LOCK_SNAPSHOT	0xE8

/* 233: a session that waits, for one thing or for any (wakeup_channel.h) */
#define EVS_LOCK_CHANNEL	0xE9

/* 234: a process of the daemon, or who bars it from the database (crew.c) */
#define EVS_LOCK_CREW		0xEA

/* 235: the gate, while tables are to be exchanged; who may not append waits for it (gate.c) */
#define EVS_LOCK_GATE		0xEB

/* 236: the turn of workers that apply what may crash the server (crash_mark.c) */
#define EVS_LOCK_TURN		0xEC

#endif							/* EVS_LOCK_CLASSES_H */
