/*
 * new_events_stream.c - the relation new_events of a query that reads many
 * events once: handed over as they come, stored nowhere.
 *
 * A tuplestore forms a row of each event, copies it, and copies it again when
 * it no longer fits into memory; then the query takes it apart.  For a rebuild
 * that is a fifth of all work.  So the planner is given another way to scan
 * new_events: a custom scan whose rows are the events' own columns, straight
 * from the scan of the log.
 *
 * Such a scan can go through its events once.  So it is offered only where the
 * shape of the query leaves no other choice: an INSERT or SELECT (or a subquery
 * that is all its FROM clause) with new_events as its one and only source, and
 * without a subquery in an expression, which the planner may make a join of.
 * What stands above the scan then is aggregation, sorting, windows, limits and
 * the INSERT itself; all of them read their input once.
 */
#include "new_events_stream.h"

#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"

#include "catalog.h"
#include "event.h"

/* the stream that new_events is now; NULL: it is a tuplestore */
static EvsEventStream *current_stream = NULL;

static set_rel_pathlist_hook_type previous_pathlist_hook = NULL;

EvsEventStream *
evs_new_events_set_stream(EvsEventStream *stream)
{
	EvsEventStream *previous = current_stream;

	current_stream = stream;
	return previous;
}

/* ---- which queries can ---- */

/* new_events, and not a transition table that has its name */
static bool
is_new_events(const RangeTblEntry *entry)
{
	return entry->rtekind == RTE_NAMEDTUPLESTORE && !OidIsValid(entry->relid) &&
		strcmp(entry->enrname, EVS_NEW_EVENTS) == 0;
}

typedef struct References
{
	List	   *range_tables;	/* of the queries around a node, innermost first */
	int			count;			/* so often is new_events named */
	bool		whole_row;		/* as a row */
} References;

/* Look for references at any depth. */
static bool
find_references(Node *node, References *found)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		List	   *range_table = list_nth(found->range_tables, var->varlevelsup);

		/* ON CONFLICT has a whole row of the table that it inserts into */
		if (var->varattno == InvalidAttrNumber)
			found->whole_row |= is_new_events(rt_fetch(var->varno, range_table));
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		ListCell   *cell;

		foreach(cell, query->rtable)
		{
			if (is_new_events(lfirst_node(RangeTblEntry, cell)))
				found->count++;
		}
		found->range_tables = lcons(query->rtable, found->range_tables);
		query_tree_walker(query, find_references, found, 0);
		found->range_tables = list_delete_first(found->range_tables);
		return false;
	}
	return expression_tree_walker(node, find_references, found);
}

/* Does the query read from new_events, directly or by subqueries, and from nothing else? */
static bool
reads_only_new_events(const Query *query)
{
	while ((query->commandType == CMD_SELECT || query->commandType == CMD_INSERT) &&
		   query->setOperations == NULL && !query->hasSubLinks && query->jointree != NULL &&
		   list_length(query->jointree->fromlist) == 1)
	{
		Node	   *from = linitial(query->jointree->fromlist);
		RangeTblEntry *entry;

		if (!IsA(from, RangeTblRef))
			return false;
		entry = rt_fetch(((RangeTblRef *) from)->rtindex, query->rtable);
		if (is_new_events(entry))
			return true;
		if (entry->rtekind != RTE_SUBQUERY)
			return false;
		query = entry->subquery;
	}
	return false;
}

bool
evs_new_events_can_stream(List *queries)
{
	References	found = {NIL, 0, false};

	if (list_length(queries) != 1)
		return false;			/* a rule has made more of it */

	/* a custom scan that is not of a table has columns only */
	find_references(linitial(queries), &found);
	return found.count == 1 && !found.whole_row &&
		reads_only_new_events(linitial_node(Query, queries));
}

/* ---- execution ---- */

typedef struct StreamScanState
{
	CustomScanState css;
	EvsEventStream *stream;
	TupleTableSlot *stored;		/* a row of stream->first; NULL: they are through */
	pg_uuid_t	id;				/* of the current event */
} StreamScanState;

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	StreamScanState *state = (StreamScanState *) node;

	if (current_stream == NULL)
		elog(ERROR, "there is no stream of events to be read");
	state->stream = current_stream;
	state->stored = ExecInitExtraTupleSlot(estate, evs_event_tupdesc(), &TTSOpsMinimalTuple);
}

/* The next row, or an empty slot. */
static TupleTableSlot *
next_row(ScanState *node)
{
	StreamScanState *state = (StreamScanState *) node;
	EvsEventStream *stream = state->stream;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	const EvsEvent *event;

	if (state->stored != NULL)
	{
		if (tuplestore_gettupleslot(stream->first, true, false, state->stored))
			return ExecCopySlot(slot, state->stored);
		state->stored = NULL;
	}

	ExecClearTuple(slot);
	event = stream->next(stream->source);
	if (event == NULL)
		return slot;
	evs_handler_context_add(stream->errors, event);
	evs_event_values(event, slot->tts_values, slot->tts_isnull,
					 stream->with_id ? &state->id : NULL);
	return ExecStoreVirtualTuple(slot);
}

/* Nothing about a row can change between two looks. */
static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
execute_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
end_scan(CustomScanState *node)
{
}

static void
rescan(CustomScanState *node)
{
	elog(ERROR, "a stream of events cannot be read twice");
}

static const CustomExecMethods exec_methods = {
	.CustomName = "evsource new_events",
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = execute_scan,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
};

static Node *
create_scan_state(CustomScan *scan)
{
	StreamScanState *state = palloc0(sizeof(StreamScanState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	return (Node *) state;
}

static const CustomScanMethods scan_methods = {
	.CustomName = "evsource new_events",
	.CreateCustomScanState = create_scan_state,
};

/* ---- planning ---- */

/* The columns of new_events, as a custom scan has to list them. */
static List *
all_columns(Index relation)
{
	TupleDesc	tupdesc = evs_event_tupdesc();
	List	   *columns = NIL;

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		Var		   *column = makeVar(relation, i + 1, attribute->atttypid, attribute->atttypmod,
									 attribute->attcollation, 0);

		columns = lappend(columns, makeTargetEntry((Expr *) column, i + 1, NULL, false));
	}
	return columns;
}

static Plan *
plan_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist,
		  List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);

	/* no table: the scan's rows are described by their columns */
	scan->scan.scanrelid = 0;
	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = extract_actual_clauses(clauses, false);
	scan->custom_scan_tlist = all_columns(rel->relid);
	scan->flags = path->flags;
	scan->methods = &scan_methods;
	return &scan->scan.plan;
}

static const CustomPathMethods path_methods = {
	.CustomName = "evsource new_events",
	.PlanCustomPath = plan_scan,
};

/* Replace the scan of a tuplestore by ours. */
static void
set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index relation, RangeTblEntry *entry)
{
	if (previous_pathlist_hook)
		previous_pathlist_hook(root, rel, relation, entry);

	if (current_stream != NULL && is_new_events(entry))
	{
		Path	   *replaced = linitial(rel->pathlist);
		CustomPath *path = makeNode(CustomPath);

		path->path.pathtype = T_CustomScan;
		path->path.parent = rel;
		path->path.pathtarget = rel->reltarget;
		path->path.rows = replaced->rows;
		path->path.startup_cost = replaced->startup_cost;
		path->path.total_cost = replaced->total_cost;
		path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
		path->methods = &path_methods;
		rel->pathlist = NIL;
		add_path(rel, &path->path);
	}
}

void
evs_new_events_stream_init(void)
{
	RegisterCustomScanMethods(&scan_methods);
	previous_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = set_rel_pathlist;
}
