/*
 * resolve.h - functions, tables and queries that a projection is given as
 * text.
 */
#ifndef EVS_RESOLVE_H
#define EVS_RESOLVE_H

#include "evsource.h"

#include "storage/lockdefs.h"

#include "projection.h"

/* The functions that can be given, besides the handler of a projection. */
typedef enum EvsFunctionUse
{
	EVS_USE_KEY,				/* f(evsource.event) returns text or text[] */
	EVS_USE_RESET,				/* f() returns void */
	EVS_USE_COMPATIBLE,			/* f(integer, integer) returns boolean */
	EVS_USE_MIGRATE,			/* f(jsonb, integer) returns jsonb */
	EVS_USE_VALIDATOR,			/* f(jsonb) returns boolean or text */
	EVS_USE_UPCASTER,			/* f(jsonb) or f(evsource.event) returns jsonb */
	EVS_USE_DECIDER				/* f(jsonb, jsonb) returns evsource.new_event[] */
} EvsFunctionUse;

/*
 * Find the function that a name means, bare or qualified, with or without a
 * signature, and return its qualified signature: the form that is stored.  The
 * kind of a handler follows from its signature.
 *
 * Errors: 42883 when there is none, 42P13 when none has a signature that fits,
 * 42725 when several have.
 */
extern char *evs_resolve_handler(const char *name, EvsKind *kind);
extern char *evs_resolve_function(const char *name, EvsFunctionUse use);

/* The same for a table.  Errors: 42P01, 42809 when it is none. */
extern char *evs_resolve_table(const char *name);

/*
 * The table as FROM and TRUNCATE name it when those that inherit from it are not
 * meant: their rows are not the projection's.  Its partitions' are.
 */
extern char *evs_resolve_only(const char *table);

/* The table and its partitions, which get the lock; the table itself has it. */
extern List *evs_resolve_with_partitions(Oid table, LOCKMODE lock);

/*
 * From here on names are quoted where they need it, whatever the session has set:
 * what is stored does not depend on that.  Returns what to give AtEOXact_GUC().
 */
extern int	evs_quote_as_needed(void);

/* That each table of the projection is there by its stored name: 42P01 when one is gone. */
extern void evs_resolve_check_tables(const EvsProjection *projection);

/* A function by the signature that is stored.  Errors: 42883 when it is gone. */
extern Oid	evs_resolve_signature(const char *signature);

/* 42501 unless its owner, whose OID that is, may read each event, whatever the policies. */
extern void evs_resolve_check_may_read(const EvsProjection *projection, Oid owner);

/*
 * A table of the projection that is not its owner's: it may have been given away.  NULL: none.
 * Takes no lock.
 */
extern const char *evs_resolve_foreign_table(const EvsProjection *projection);

/* 42501 unless its owner may read all events, and owns all that the projection names. */
extern void evs_resolve_check_owner(const EvsProjection *projection);

/*
 * 42501 when a function that is to run as the current user has come to belong to
 * somebody who could use these rights by replacing it.
 */
extern void evs_resolve_check_trust(Oid function);

/*
 * 42501 unless the function belongs to the role that will run it, as part of
 * "a projection", or whatever it is.
 */
extern void evs_resolve_check_function(const char *signature, const char *owner_name,
									   const char *whole);

/* The schemas that names are looked up in right now, as a search_path. */
extern char *evs_resolve_search_path(void);

/*
 * See that the projection's query is one statement that reads new_events, as
 * its owner, with its search_path (check_query.c).  Errors: whatever the parser
 * finds, 42601 for several statements, 22023 for the rest.
 */
extern void evs_check_query(const EvsProjection *projection);

#endif							/* EVS_RESOLVE_H */
