/*
 * check_query.c - what a query projection may be: one statement that reads the
 * relation new_events, in a subquery or a WITH if it likes.
 *
 * The statement is analyzed as dispatch will run it, by the projection's owner
 * with its search_path, and explained, so that a mistake or a missing privilege
 * shows at registration and not at the first append.  It is not executed.
 */
#include "evsource.h"

#include "catalog/namespace.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parsetree.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "deferred.h"
#include "identity.h"
#include "resolve.h"

#define NEW_EVENTS	"new_events"

/* What the statement reads. */
typedef struct Findings
{
	bool		new_events;		/* the relation that we provide */
	Oid			temporary;		/* a temporary table */
	List	   *written;		/* tables */
} Findings;

/* Positions in errors are positions in the query, not in the caller's statement. */
static void
query_error_callback(void *arg)
{
	const EvsProjection *projection = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(projection->query);
	}
	errcontext("query of projection \"%s\"", projection->name);
}

static bool
find_relations(Node *node, void *context)
{
	Findings   *findings = context;

	if (node == NULL)
		return false;

	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_NAMEDTUPLESTORE && strcmp(rte->enrname, NEW_EVENTS) == 0)
			findings->new_events = true;
		if (rte->rtekind == RTE_RELATION &&
			isAnyTempNamespace(get_rel_namespace(rte->relid)))
			findings->temporary = rte->relid;
		return false;			/* query_tree_walker looks inside */
	}

	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->resultRelation > 0)
			findings->written = list_append_unique_oid(findings->written,
													   rt_fetch(query->resultRelation, query->rtable)->relid);
		return query_tree_walker(query, find_relations, context, QTW_EXAMINE_RTES_BEFORE);
	}

	return expression_tree_walker(node, find_relations, context);
}

/* The relation new_events, without rows. */
static EphemeralNamedRelation
make_new_events(void)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = NEW_EVENTS;
	relation->md.tupdesc = evs_event_tupdesc();
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->reldata = tuplestore_begin_heap(false, false, work_mem);

	return relation;
}

/*
 * Starting a statement checks its privileges, and EXPLAIN starts it without
 * running it.
 */
static void
explain(const EvsProjection *projection, EphemeralNamedRelation new_events)
{
	StringInfoData statement;
	int			result;

	initStringInfo(&statement);
	appendStringInfo(&statement, "explain %s", projection->query);

	SPI_connect();
	if (SPI_register_relation(new_events) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register new_events");
	result = SPI_execute(statement.data, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), statement.data);
	SPI_finish();
}

/* Of those that were named as tables of the projection it has been said. */
static void
warn_of_deferred(const EvsProjection *projection, List *written)
{
	ListCell   *cell;

	foreach(cell, written)
	{
		Oid			table = lfirst_oid(cell);
		const char *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
													  get_rel_name(table));
		ListCell   *other;
		bool		known = false;

		foreach(other, projection->tables)
			known = known || strcmp(lfirst(other), name) == 0;
		if (!known)
			evs_deferred_warn(table);
	}
}

void
evs_check_query(const EvsProjection *projection)
{
	ErrorContextCallback callback;
	EvsIdentity identity;
	EphemeralNamedRelation new_events;
	QueryEnvironment *environment = create_queryEnv();
	List	   *statements;
	Query	   *query;
	Findings	findings = {0};

	callback.callback = query_error_callback;
	callback.arg = unconstify(EvsProjection *, projection);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	evs_identity_enter(&identity, projection->owner, projection->search_path);
	evs_identity_pin_settings();
	statements = pg_parse_query(projection->query);
	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query of a projection must be a single statement"),
				 errdetail_plural("It has %d statement.", "It has %d statements.",
								  list_length(statements), list_length(statements)),
				 errhint("Put several into one with WITH, or write a batch handler.")));

	new_events = make_new_events();
	register_ENR(environment, new_events);

	PushActiveSnapshot(GetTransactionSnapshot());
	query = parse_analyze_fixedparams(linitial_node(RawStmt, statements),
									  projection->query, NULL, 0, environment);
	PopActiveSnapshot();

	if (query->commandType == CMD_UTILITY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of a projection must be SELECT, INSERT, UPDATE, DELETE or MERGE"),
				 errhint("Write a handler for anything else.")));

	(void) find_relations((Node *) query, &findings);
	if (!findings.new_events)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of a projection must read new_events"),
				 errdetail("The relation new_events holds the events to apply, as rows of type evsource.event."),
				 errhint("Select from new_events what the query is to do with the events.")));
	if (OidIsValid(findings.temporary))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of a projection must not use temporary table \"%s\"",
						get_rel_name(findings.temporary)),
				 errhint("A projection is applied in many sessions: give it a permanent table.")));

	warn_of_deferred(projection, findings.written);
	explain(projection, new_events);

	tuplestore_end(new_events->reldata);
	evs_identity_leave(&identity);
	error_context_stack = callback.previous;
}
