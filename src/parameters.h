/*
 * parameters.h - what an SQL call says, of a projection above all, as it was said.
 */
#ifndef EVS_PARAMETERS_H
#define EVS_PARAMETERS_H

#include "evsource.h"

#include "fmgr.h"
#include "utils/array.h"
#include "utils/timestamp.h"

/* The parameters that define a projection. */
typedef enum EvsParameter
{
	EVS_PARAMETER_HANDLER,
	EVS_PARAMETER_QUERY,
	EVS_PARAMETER_MODE,
	EVS_PARAMETER_CATEGORIES,
	EVS_PARAMETER_TYPES,
	EVS_PARAMETER_KEY,
	EVS_PARAMETER_STATE_VERSION,
	EVS_PARAMETER_TABLES,
	EVS_PARAMETER_ON_RESET,
	EVS_PARAMETER_ON_ERROR,
	EVS_PARAMETER_OWNER,
	EVS_PARAMETER_SNAPSHOTS,
	EVS_PARAMETER_SNAPSHOT_EVERY,
	EVS_PARAMETER_SNAPSHOT_AFTER_BATCH,
	EVS_PARAMETER_RESTORE_FROM_SNAPSHOT,
	EVS_PARAMETER_IS_COMPATIBLE,
	EVS_PARAMETER_MIGRATE_STATE,
	EVS_PARAMETER_NOTIFY,
	EVS_PARAMETER_DEFAULTS,
	EVS_PARAMETER_KEEP_SNAPSHOTS,
	EVS_PARAMETER_PATH,
	EVS_PARAMETER_PARTITIONS
} EvsParameter;

#define EVS_NPARAMETERS (EVS_PARAMETER_PARTITIONS + 1)

/* The parameters as they were given; NULL, or has_..., says: not given. */
typedef struct EvsParameters
{
	char	   *handler;
	char	   *query;
	char	   *mode;
	ArrayType  *categories;
	ArrayType  *types;
	char	   *key;
	ArrayType  *tables;
	char	   *on_reset;
	char	   *on_error;
	char	   *owner;
	char	   *snapshots;
	char	   *is_compatible;
	char	   *migrate_state;
	ArrayType  *defaults;		/* names of parameters to set back */
	ArrayType  *path;
	bool		has_state_version;
	int			state_version;
	bool		has_snapshot_every;
	int			snapshot_every;
	bool		has_snapshot_after_batch;
	bool		snapshot_after_batch;
	bool		has_restore_from_snapshot;
	bool		restore_from_snapshot;
	bool		has_partitions;
	int			partitions;
	bool		has_keep_snapshots;
	int			keep_snapshots;
	bool		has_notify;
	bool		notify;
} EvsParameters;

/* Arguments of an SQL function that may be NULL: NULL, or the value. */
extern char *evs_argument_text(FunctionCallInfo fcinfo, int argument);
extern bool evs_argument_bool(FunctionCallInfo fcinfo, int argument, bool if_null);

/* 22004 when the argument, which the user knows by this name, is NULL. */
extern void evs_argument_require(FunctionCallInfo fcinfo, int argument, const char *name);

/* The name of a projection, or of something else: 22004 when NULL, 22023 when empty or too long. */
extern char *evs_argument_name(FunctionCallInfo fcinfo, int argument);
extern char *evs_argument_name_of(FunctionCallInfo fcinfo, int argument, const char *what);

/* How long an interval is, a month having 30 days; negative if it is. */
extern double evs_interval_length(const Interval *interval);	/* ms */

/* Which of the words is it?  22023 with the list as a hint when it is none. */
extern int	evs_parameter_word(const char *parameter, const char *value,
							   const char *const *words, int count);

/* 22023 where a stream's name could not begin with a category. */
extern void evs_parameter_check_categories(const EvsFilter *filter);

/*
 * Read the parameters of an SQL function.  positions says which argument of it
 * each parameter is; 0, which is the name, says that it has no such argument.
 */
extern void evs_parameters_read(FunctionCallInfo fcinfo, const int *positions,
								EvsParameters *parameters);

#endif							/* EVS_PARAMETERS_H */
