/*
 * errors.h - the SQLSTATEs that evsource adds to PostgreSQL's own.
 *
 * Class VE is ours: the standard reserves class E.  What PostgreSQL already has
 * a code for keeps that code (22004 for a NULL, 22023 for a bad argument, 40001
 * when running the transaction again can succeed, 42501 for rights, 42710 and
 * 42704 for objects that exist or do not, 55000 for a wrong state).  doc/errors.md
 * tells users what each of them means.
 */
#ifndef EVS_ERRORS_H
#define EVS_ERRORS_H

/* the stream is at another version than the append, or the command, expects */
#define ERRCODE_EVS_WRONG_EXPECTED_VERSION	MAKE_SQLSTATE('V','E','0','0','1')

/* an event or command with this id is stored, and it is a different one */
#define ERRCODE_EVS_DUPLICATE_EVENT_ID		MAKE_SQLSTATE('V','E','0','0','2')

/* stored events are not updated, deleted or truncated */
#define ERRCODE_EVS_EVENTS_ARE_IMMUTABLE	MAKE_SQLSTATE('V','E','0','0','3')

/* data that the rule of its event type does not allow */
#define ERRCODE_EVS_INVALID_EVENT_DATA		MAKE_SQLSTATE('V','E','0','0','4')

/* a receipt of events that others have by now, or that were acknowledged before */
#define ERRCODE_EVS_LEASE_LOST				MAKE_SQLSTATE('V','E','0','0','5')

/* wait_for: the projection did not reach the position in time */
#define ERRCODE_EVS_WAIT_TIMEOUT			MAKE_SQLSTATE('V','E','0','0','9')

#endif							/* EVS_ERRORS_H */
