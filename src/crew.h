/*
 * crew.h - who works on a database in the background: a launcher, its teams (a
 * coordinator and workers for one database), and what they tell each other.
 */
#ifndef EVS_CREW_H
#define EVS_CREW_H

#include "evsource.h"

#include "datatype/timestamp.h"
#include "storage/dsm.h"
#include "storage/spin.h"

#include "clock.h"

/* The most that evsource.max_workers can be. */
#define EVS_MAX_WORKERS			64

/* A projection's name with its end. */
#define EVS_CREW_NAME_SIZE		64

typedef enum EvsJobKind
{
	EVS_JOB_NONE,
	EVS_JOB_APPLY,				/* a partition of an async projection */
	EVS_JOB_REBUILD				/* a rebuild that was requested */
} EvsJobKind;

/* Why a coordinator has left. */
typedef enum EvsVerdict
{
	EVS_VERDICT_NONE,			/* it has not, or it died */
	EVS_VERDICT_AWAY,			/* somebody needs the database without us: try later */
	EVS_VERDICT_ANEW,			/* the extension is not what it was: start at once */
	EVS_VERDICT_NO_ROOM,		/* no room for a worker: others may use its own place */
	EVS_VERDICT_NOT_NEEDED,		/* nothing to do here until something changes */
	EVS_VERDICT_STOPPED			/* asked to, by stop_daemon */
} EvsVerdict;

/* One worker; the team's mutex guards all but what only it writes. */
typedef struct EvsMember
{
	pid_t		pid;			/* 0: there is none */
	bool		dismissed;		/* it shall leave */
	EvsJobKind	job;			/* what it has claimed */
	int			partition;
	char		projection[EVS_CREW_NAME_SIZE];
	TimestampTz since;			/* when it claimed that */
	TimestampTz heartbeat;		/* when it last said that it lives */
} EvsMember;

/* One database. */
typedef struct EvsTeam
{
	slock_t		mutex;
	Oid			database;		/* invalid: free */
	pid_t		launcher;		/* that looks after it */
	bool		stop;			/* stop_daemon was called */
	bool		hurry;			/* start_daemon was called: no pause any more */
	bool		no_room;		/* the last coordinator found no free process of the server */
	bool		wants_room;		/* it is there, and found none for one of its workers */
	bool		starves;		/* nor for any other */
	bool		room;			/* the launcher says that there is some: try */
	bool		stay;			/* started by hand: stay when there is nothing to do */
	bool		told_copy;		/* the log says that it waits for evsource.adopt() */
	EvsTime		tell_room_at;	/* the log says that it has no worker: not again before that */
	EvsVerdict	verdict;
	pid_t		coordinator;	/* 0: there is none */
	uint32		term;			/* counts coordinators: workers of another one are to leave */
	bool		settled;		/* it has found that it is needed: it does not leave at once */
	TimestampTz heartbeat;
	int			size;			/* how many workers there should be */
	EvsMember	members[EVS_MAX_WORKERS];
} EvsTeam;

typedef struct EvsCrew
{
	uint32		layout;
	pid_t		launcher;
	bool		room;			/* some worker has left its place */
	bool		queue;			/* databases wait in line for a coordinator */
	bool		newcomer;		/* one of them may need no more than that */
	int			nteams;
	EvsTeam		teams[FLEXIBLE_ARRAY_MEMBER];
} EvsCrew;

/* What a background worker of ours gets in bgw_extra. */
typedef struct EvsPost
{
	Oid			database;
	dsm_handle	crew;
	int			team;
	int			member;
	uint32		term;			/* of the coordinator that has started it */
} EvsPost;

/* Launcher: make the memory of a crew; it lives as long as somebody has it. */
extern EvsCrew *evs_crew_create(int nteams, dsm_handle *handle);

/* Launcher: let others find a team by its database, and no longer (but see evs_crew_join). */
extern void evs_crew_announce(const EvsPost *post);
extern void evs_crew_withdraw(const EvsPost *post);

/* Coordinator, worker: the team can be found until we exit, also when the others have died. */
extern void evs_crew_join(const EvsPost *post);

/* Coordinator, worker: the crew that we belong to; NULL when it is gone. */
extern EvsCrew *evs_crew_attach(dsm_handle handle);

/*
 * Anybody: the team of a database, or NULL; leave its segment when done.  There can be
 * others, of launchers that have died: of these there are no more than workers left.
 */
extern EvsTeam *evs_crew_find(Oid database, dsm_segment **segment);
extern void evs_crew_leave(dsm_segment *segment);

/* Call a function with each team of a database; returns how many there are. */
typedef void (*EvsTeamVisitor) (EvsTeam *team, void *argument);
extern int	evs_crew_visit(Oid database, EvsTeamVisitor visit, void *argument);

/* Does a process live that a member's place is, or was, given to? */
extern bool evs_crew_is_taken(const EvsMember *member);

/* Has a team any such process? */
extern bool evs_crew_has_workers(const EvsTeam *team);

/* Does another crew than the post's, whose launcher lives, have a coordinator there? */
extern bool evs_crew_is_elsewhere(const EvsPost *post);

/* Coordinator: is there no other for this database?  Held until we exit. */
extern bool evs_crew_claim_database(void);

/*
 * Does somebody want to drop, rename, move or copy a database, or to drop or update the
 * extension in it?  In a transaction.
 */
extern bool evs_crew_in_the_way(Oid database);

/* The process of another session that drops or updates the extension in our database, or 0. */
extern pid_t evs_crew_changes_extension(void);

/* Have a member's process end, if it works on a database; it may be busy. */
extern void evs_crew_terminate(const EvsMember *member, Oid database);

/* Set the latch of a process, if it lives. */
extern void evs_crew_wake(pid_t pid);
extern void evs_crew_wake_team(EvsTeam *team);

/* How many of the first teams have a coordinator, but no worker for want of room? */
extern int	evs_crew_count_starving(const EvsCrew *crew, int first);

/* Launcher: is there a team without a database? */
extern bool evs_crew_has_free_team(const EvsCrew *crew);

/* Launcher: let the coordinators that lack some know that there is room. */
extern void evs_crew_offer_room(EvsCrew *crew);

/* Have all coordinators look at what the others lack. */
extern void evs_crew_wake_coordinators(const EvsCrew *crew);

/* Has this database a team? */
extern bool evs_crew_is_in(Oid database);

/* Are there as many teams as there can be processes?  The launcher of all has no more. */
extern bool evs_crew_is_full(void);

/*
 * Make a database free of our processes for a command that needs that.  The
 * caller holds the lock that the command takes: those who have left do not come
 * back before it is released.
 */
extern void evs_crew_clear_database(Oid database);

/*
 * The same for who drops or updates the extension: they do not come back to this
 * database before the transaction has ended.  Sessions that wait are woken, to give way
 * (give_way.c).
 */
extern void evs_crew_make_room(void);

#endif							/* EVS_CREW_H */
