/*
 * errors.h - the SQLSTATEs that evsource adds to PostgreSQL's own.
 *
 * Class VE is ours: the standard reserves class E.  What PostgreSQL already has
 * a code for keeps that code (22004 for a NULL, 22023 for a bad argument, 40001
 * when running the transaction again can succeed, 42501 for rights, 42710 and
 * 42704 for objects that exist or do not, 55000 for a wrong state).
 */
#ifndef EVS_ERRORS_H
#define EVS_ERRORS_H

#define ERRCODE_EVS_WRONG_EXPECTED_VERSION	MAKE_SQLSTATE('V','E','0','0','1')
#define ERRCODE_EVS_DUPLICATE_EVENT_ID		MAKE_SQLSTATE('V','E','0','0','2')
#define ERRCODE_EVS_EVENTS_ARE_IMMUTABLE	MAKE_SQLSTATE('V','E','0','0','3')
#define ERRCODE_EVS_INVALID_EVENT_DATA		MAKE_SQLSTATE('V','E','0','0','4')
#define ERRCODE_EVS_LEASE_LOST				MAKE_SQLSTATE('V','E','0','0','5')
#define ERRCODE_EVS_WAIT_TIMEOUT			MAKE_SQLSTATE('V','E','0','0','9')

#endif							/* EVS_ERRORS_H */
