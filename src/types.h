/*
 * types.h - the versions that the types of events have: what must hold for
 * their data, and how old data becomes new.
 */
#ifndef EVS_TYPES_H
#define EVS_TYPES_H

#include "evsource.h"

#include "nodes/pg_list.h"

/* A smallint of evsource.events holds the version. */
#define EVS_MAX_SCHEMA_VERSION	PG_INT16_MAX

/* One version of a type: a row of evsource.event_types. */
typedef struct EvsTypeVersion
{
	int			version;
	void	   *schema_path;	/* JsonPath *, or NULL */
	bool		path_has_times; /* what it says may depend on a time zone */
	char	   *validator;		/* qualified signature, or NULL */
	char	   *upcaster;		/* of the version before to this one, or NULL */
	char	   *owner;			/* whose rights they run with */
	char	   *search_path;
	bool		changes_stored; /* older events were stored when it was defined */
} EvsTypeVersion;

/* A type that has been defined.  Version 1 may have no definition of its own. */
typedef struct EvsEventType
{
	text	   *type;
	int			newest;			/* version */
	EvsTypeVersion **versions;	/* [1 .. newest]; NULL: nothing was defined */
} EvsEventType;

extern void evs_types_init(void);

/* Is any type defined?  Who appends asks after events has been locked. */
extern bool evs_types_any(void);

/*
 * The same for who reads: nothing keeps others from defining types meanwhile, so
 * it hears first what they have committed.
 */
extern bool evs_types_any_now(void);

/* The type, copied into CurrentMemoryContext, or NULL when it is not defined. */
extern EvsEventType *evs_types_find(const text *type);

/*
 * A number that changes when an upcaster comes or goes that changes stored events
 * which the filter accepts; 0 while none has.
 */
extern uint32 evs_types_fingerprint(const EvsFilter *filter);

/* The same without what the transaction itself has defined. */
extern uint32 evs_types_fingerprint_before(const EvsFilter *filter);

/* ---- validating and upcasting: type_run.c ---- */

/* The first variable that a jsonpath has, or NULL: nothing is passed to it. */
extern char *evs_type_path_variable(const void *path);

/* Does it make dates and times of what it finds? */
extern bool evs_type_path_has_times(const void *path);

/*
 * One run over events: a batch, a scan, a statement.  It keeps the functions
 * that it calls ready, in a child of the CurrentMemoryContext it was begun in,
 * and ends with that.  It must not outlive the subtransaction.
 */
typedef struct EvsTypeRun EvsTypeRun;

extern EvsTypeRun *evs_type_run(void);

/*
 * Before an event is stored: see that its data is what the rule of its version
 * says (the newest, if none was given) and note the version as it is stored.
 *
 * Errors: VE004 when the rule does not hold; 22023 for a version that the type
 * does not have, or that nothing leads on from; what the validator raises.
 */
extern void evs_type_validate(EvsTypeRun *run, EvsEvent *event);

/*
 * The same where no type is defined: the only version that can be given is 1.
 */
extern void evs_type_check_undefined(EvsEvent *event);

/*
 * Bring what was stored in an older version to the newest one; the new data is
 * in CurrentMemoryContext.  The event's type is detoasted, the rest need not be.
 *
 * Errors: 55000 when a step is missing, 22004 when an upcaster returns null, 42883
 * when it is gone, 54001 when upcasters make each other run too deeply, 42501;
 * what the upcaster raises.
 */
extern void evs_type_upcast(EvsTypeRun *run, EvsEvent *event);

#endif							/* EVS_TYPES_H */
