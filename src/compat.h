/*
 * compat.h - the only file that knows PostgreSQL's version.
 *
 * The rest of the code calls the newest names; each shim here makes one of them
 * exist on older servers and says which release brought it.
 */
#ifndef EVS_COMPAT_H
#define EVS_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 130000
#error "evsource needs PostgreSQL 13 or later"
#endif

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "common/jsonapi.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

/* varatt.h became a file of its own in 16; postgres.h had its contents before. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* DATCONNLIMIT_INVALID_DB: minor releases of August 2023. */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB -2
#endif

/* EVENT_TRIGGEROID was called otherwise before 14. */
#if PG_VERSION_NUM < 140000
#define EVENT_TRIGGEROID EVTTRIGGEROID
#endif

/* PG_MODULE_MAGIC_EXT: 18. */
#if PG_VERSION_NUM < 180000
#define PG_MODULE_MAGIC_EXT(...) PG_MODULE_MAGIC
#endif

/* pg_noreturn: 18. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* standard_conforming_strings can no longer be off: 19. */
#if PG_VERSION_NUM >= 190000
#define standard_conforming_strings true
#endif

/* CUSTOMPATH_SUPPORT_PROJECTION: 15.  Before, every custom path had to. */
#if PG_VERSION_NUM < 150000
#define CUSTOMPATH_SUPPORT_PROJECTION 0
#endif

/* index_beginscan gained instrumentation in 18, and as table_beginscan flags in 19. */
#if PG_VERSION_NUM < 180000
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(heap, index, snapshot, nkeys, norderbys)
#elif PG_VERSION_NUM < 190000
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys)
#endif
#if PG_VERSION_NUM < 190000
#define table_beginscan(table, snapshot, nkeys, keys, flags) \
	table_beginscan(table, snapshot, nkeys, keys)
#endif

/*
 * Let go of the page of the table that an index scan is on.  table_index_fetch_reset() does
 * that, up to 18; in 19 it keeps the page for the next row.
 */
static inline void
evs_index_scan_let_go(IndexScanDesc scan)
{
#if PG_VERSION_NUM >= 190000
	/* it is to last as long as the scan, not only for the event that is being applied */
	MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(scan));

	table_index_fetch_end(scan->xs_heapfetch);
	scan->xs_heapfetch = table_index_fetch_begin(scan->heapRelation, SO_NONE);
	MemoryContextSwitchTo(caller);
#else
	table_index_fetch_reset(scan->xs_heapfetch);
#endif
}

/* index_insert learned in 14 that an UPDATE may leave the indexed values as they are. */
#if PG_VERSION_NUM < 140000
#define index_insert(index, values, nulls, tid, heap, check_unique, unchanged, info) \
	index_insert(index, values, nulls, tid, heap, check_unique, info)
#endif

/* heap_fetch asks since 15 whether to keep the buffer of a row that the snapshot does not see. */
#if PG_VERSION_NUM < 150000
#define heap_fetch(relation, snapshot, tuple, buffer, keep) \
	heap_fetch(relation, snapshot, tuple, buffer)
#endif

/* Sequences' WAL records got a header of their own in 19. */
#if PG_VERSION_NUM >= 190000
#include "commands/sequence_xlog.h"
#endif

/* A sequence's WAL record names its file by RelFileLocator since 16. */
#if PG_VERSION_NUM >= 160000
#define evs_seq_rec_set_relation(record, relation) \
	((record)->locator = (relation)->rd_locator)
#else
#define evs_seq_rec_set_relation(record, relation) \
	((record)->node = (relation)->rd_node)
#endif

/* toast_compress_datum takes the method, and values tell theirs, since 14. */
#if PG_VERSION_NUM < 140000
#include "access/toast_internals.h"

#define TOAST_PGLZ_COMPRESSION 'p'
#define toast_compress_datum(value, method) toast_compress_datum(value)
#define TOAST_PGLZ_COMPRESSION_ID 0
#define toast_get_compression_id(value) TOAST_PGLZ_COMPRESSION_ID
#endif

/* GlobalVisCheckRemovableXid: 14.  Before, there was one horizon for all tables. */
#if PG_VERSION_NUM < 140000
#include "access/transam.h"
#include "utils/snapmgr.h"

#define GlobalVisCheckRemovableXid(relation, xid) TransactionIdPrecedes(xid, RecentGlobalXmin)
#endif

/* HASH_STRINGS: 14.  Before, keys were strings unless said otherwise. */
#if PG_VERSION_NUM < 140000
#define HASH_STRINGS 0
#endif

/* GetWALInsertionTimeLine: 15.  Before, RecoveryInProgress set the variable. */
#if PG_VERSION_NUM < 150000
#include "access/xlog.h"

static inline TimeLineID
GetWALInsertionTimeLine(void)
{
	return RecoveryInProgress() ? 0 : ThisTimeLineID;
}
#endif

/* index_insert_cleanup: 17.  Before, no access method kept what needs it. */
#if PG_VERSION_NUM < 170000
#define index_insert_cleanup(index, info) ((void) 0)
#endif

/* object_aclcheck, object_ownercheck: 16. */
#if PG_VERSION_NUM < 160000
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"

static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	if (classid == ProcedureRelationId)
		return pg_proc_aclcheck(objectid, roleid, mode);
	if (classid == NamespaceRelationId)
		return pg_namespace_aclcheck(objectid, roleid, mode);
	Assert(classid == RelationRelationId);
	return pg_class_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == ProcedureRelationId)
		return pg_proc_ownercheck(objectid, roleid);
	if (classid == DatabaseRelationId)
		return pg_database_ownercheck(objectid, roleid);
	if (classid == ExtensionRelationId)
		return pg_extension_ownercheck(objectid, roleid);
	Assert(classid == RelationRelationId);
	return pg_class_ownercheck(objectid, roleid);
}
#endif

/* stringToQualifiedNameList takes an ErrorSaveContext since 16. */
#if PG_VERSION_NUM < 160000
#include "utils/regproc.h"

#define stringToQualifiedNameList(string, escontext) stringToQualifiedNameList(string)
#endif

/* The executor's hook for permissions gets them in a list of their own since 16. */
#if PG_VERSION_NUM >= 160000
#define EVS_CHECK_PERMS_PARAMETERS	List *rangeTable, List *permInfos, bool report
#define EVS_CHECK_PERMS_ARGUMENTS	rangeTable, permInfos, report
#else
#define EVS_CHECK_PERMS_PARAMETERS	List *rangeTable, bool report
#define EVS_CHECK_PERMS_ARGUMENTS	rangeTable, report
#endif

/* member_can_set_role: 16, with SET as a right of its own. */
#if PG_VERSION_NUM < 160000
#define member_can_set_role(member, role) is_member_of_role(member, role)
#endif

/* parse_analyze became parse_analyze_fixedparams in 15. */
#if PG_VERSION_NUM < 150000
#include "parser/analyze.h"

#define parse_analyze_fixedparams(statement, text, types, count, environment) \
	parse_analyze(statement, text, types, count, environment)
#endif

/* A tuple descriptor made by hand must be finished since 19. */
#if PG_VERSION_NUM < 190000
#define TupleDescFinalize(tupdesc) ((void) (tupdesc))
#endif

/* FuncnameGetCandidates learned about OUT arguments in 14, and says since 19 what it met. */
#if PG_VERSION_NUM < 140000
#define FuncnameGetCandidates(names, nargs, argnames, variadic, defaults, out, missing_ok, flags) \
	((void) (flags), FuncnameGetCandidates(names, nargs, argnames, variadic, defaults, missing_ok))
#elif PG_VERSION_NUM < 190000
#define FuncnameGetCandidates(names, nargs, argnames, variadic, defaults, out, missing_ok, flags) \
	((void) (flags), FuncnameGetCandidates(names, nargs, argnames, variadic, defaults, out, missing_ok))
#endif

/* ReleaseCachedPlan takes the resource owner since 14, before: whether there is one. */
#if PG_VERSION_NUM < 140000
#include "utils/plancache.h"

#define ReleaseCachedPlan(plan, owner) ReleaseCachedPlan(plan, (owner) != NULL)
#endif

/* The plan that a ModifyTable gets its rows from is its outer one since 14, before: one of a list. */
#if PG_VERSION_NUM >= 140000
#define evs_modify_table_source(state) outerPlanState(&(state)->ps)
#else
#define evs_modify_table_source(state) ((state)->mt_plans[0])
#endif

/* Generated columns of a row are computed for a given relation since 14, before: for the current one. */
static inline void
evs_compute_generated(ResultRelInfo *relinfo, EState *estate, TupleTableSlot *row)
{
#if PG_VERSION_NUM >= 140000
	ExecComputeStoredGenerated(relinfo, estate, row, CMD_INSERT);
#else
	ResultRelInfo *current = estate->es_result_relation_info;

	estate->es_result_relation_info = relinfo;
	ExecComputeStoredGenerated(estate, row, CMD_INSERT);
	estate->es_result_relation_info = current;
#endif
}

/* Generation contexts have blocks that grow since 15. */
#if PG_VERSION_NUM < 150000
#include "utils/memutils.h"

/* the sizes come as one macro, ALLOCSET_..._SIZES: it has to be expanded first */
#define EvsGenerationContextCreate(parent, name, minsize, initsize, maxsize) \
	(GenerationContextCreate) (parent, name, initsize)
#define GenerationContextCreate(...) EvsGenerationContextCreate(__VA_ARGS__)
#endif

/* InitMaterializedSRF: 15.  The row type is that of the call; no flags here. */
#if PG_VERSION_NUM < 150000
static inline void
InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;
	TupleDesc	desc;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		!(result->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));

	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result->returnMode = SFRM_Materialize;
	result->setResult =
		tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
							  false, work_mem);
	result->setDesc = desc;
	MemoryContextSwitchTo(old);
}
#endif

/* Infinite numerics: 14. */
#if PG_VERSION_NUM < 140000
#define numeric_is_inf(number) ((void) (number), false)
#endif

/*
 * pq_check_connection: 14.  Before, only sending shows that a client is gone.  Its header
 * needs those of Kerberos, if PostgreSQL was built with it.
 */
#if PG_VERSION_NUM >= 140000
extern bool pq_check_connection(void);
#else
#define pq_check_connection() true
#endif

/* MarkGUCPrefixReserved: 15. */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* A relation's types are members of the extension that it is a member of: 17. */
#define EVS_TYPES_ARE_MEMBERS (PG_VERSION_NUM >= 170000)

/* LockHeldByMe gained "or stronger" in 17. */
#if PG_VERSION_NUM < 170000
#define LockHeldByMe(tag, mode, orstronger) LockHeldByMe(tag, mode)
#endif

/* The backend's number among all: MyProcNumber since 17, 0-based. */
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#define EvsMyProcNumber() ((int) MyProcNumber)
#else
#define EvsMyProcNumber() (MyProc->pgprocno)
#endif

/* The local transaction id moved into PGPROC.vxid in 17. */
#if PG_VERSION_NUM >= 170000
#define EvsMyLocalTransactionId() (MyProc->vxid.lxid)
#else
#define EvsMyLocalTransactionId() (MyProc->lxid)
#endif

/* Which process a virtual transaction id is of: NULL when it is gone. */
#if PG_VERSION_NUM >= 170000
#include "storage/procarray.h"
#define evs_vxid_get_proc(vxid) ProcNumberGetProc((vxid)->procNumber)
#else
#include "storage/sinvaladt.h"
#define evs_vxid_get_proc(vxid) BackendIdGetProc((vxid)->backendId)
#endif

/* Wait events with names of our own: 17. */
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#else
#include "pgstat.h"
#define WaitEventExtensionNew(name) ((void) (name), (uint32) PG_WAIT_EXTENSION)
#endif

/* ProcessUtility learned whether it may scribble on the tree in 14. */
#if PG_VERSION_NUM >= 140000
#define EVS_PROCESS_UTILITY_PARAMETERS \
	PlannedStmt *pstmt, const char *queryString, bool readOnlyTree, \
	ProcessUtilityContext context, ParamListInfo params, \
	QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc
#define EVS_PROCESS_UTILITY_ARGUMENTS \
	pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc
#else
#define EVS_PROCESS_UTILITY_PARAMETERS \
	PlannedStmt *pstmt, const char *queryString, \
	ProcessUtilityContext context, ParamListInfo params, \
	QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc
#define EVS_PROCESS_UTILITY_ARGUMENTS \
	pstmt, queryString, context, params, queryEnv, dest, qc
#endif

/* ExecutorRun forgot in 18 whether it is called once. */
#if PG_VERSION_NUM < 180000
#define EVS_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count, bool execute_once
#define EVS_EXECUTOR_RUN_ARGUMENTS	query, direction, count, execute_once
#else
#define EVS_EXECUTOR_RUN_PARAMETERS	QueryDesc *query, ScanDirection direction, uint64 count
#define EVS_EXECUTOR_RUN_ARGUMENTS	query, direction, count
#endif

/* The JSON parser takes where its context is to be, and a const text, since 17. */
#if PG_VERSION_NUM < 170000
#define makeJsonLexContextCstringLen(lex, json, length, encoding, need_escapes) \
	((void) (lex), \
	 makeJsonLexContextCstringLen(unconstify(char *, json), (int) (length), encoding, need_escapes))
#endif

/* Do two entries of the lock table belong to one transaction?  Its id moved in 17. */
static inline bool
evs_same_lock_holder(const LockInstanceData *a, const LockInstanceData *b)
{
#if PG_VERSION_NUM >= 170000
	return a->vxid.procNumber == b->vxid.procNumber &&
		a->vxid.localTransactionId == b->vxid.localTransactionId;
#else
	return a->backend == b->backend && a->lxid == b->lxid;
#endif
}

/* Named DSM segments, which need no preloading: 17. */
#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#define EVS_HAVE_NAMED_DSM 1
#endif

/* Who initializes a named segment is handed an argument since 19. */
#if PG_VERSION_NUM >= 190000
#define EVS_DSM_INIT_ARGS void *memory, void *arg
#define evs_named_dsm(name, size, init, found) GetNamedDSMSegment(name, size, init, found, NULL)
#else
#define EVS_DSM_INIT_ARGS void *memory
#define evs_named_dsm(name, size, init, found) GetNamedDSMSegment(name, size, init, found)
#endif

/* Signal handlers are told since 19 who has sent the signal: *info, a siginfo_t. */
#if PG_VERSION_NUM >= 190000
#define evs_die(number, info) \
	die(number, &(pg_signal_info) {.pid = (info)->si_pid, .uid = (info)->si_uid})
#define evs_cancel(number, info) \
	StatementCancelHandler(number, &(pg_signal_info) {.pid = (info)->si_pid, .uid = (info)->si_uid})
#else
#define evs_die(number, info) die(number)
#define evs_cancel(number, info) StatementCancelHandler(number)
#endif

/* A jsonb that is being built keeps its result since 19; before, each push returned it. */
#if PG_VERSION_NUM < 190000
typedef struct JsonbInState
{
	JsonbValue *result;
	JsonbParseState *parseState;
} JsonbInState;

#define pushJsonbValue(state, token, value) \
	((void) ((state)->result = pushJsonbValue(&(state)->parseState, token, value)))
#endif

/* shmem_request_hook: 15.  Before, space is requested while preloading. */
#if PG_VERSION_NUM >= 150000
#define EVS_HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* pg_class.relallfrozen: 18. */
#if PG_VERSION_NUM >= 180000
#define EVS_EXCHANGE_RELALLFROZEN(a, b) \
	do { \
		int32		frozen_ = (a)->relallfrozen; \
		(a)->relallfrozen = (b)->relallfrozen; \
		(b)->relallfrozen = frozen_; \
	} while (0)
#else
#define EVS_EXCHANGE_RELALLFROZEN(a, b) ((void) 0)
#endif

/* RelationGetPrimaryKeyIndex: 18 asks whether a deferrable one will do. */
#if PG_VERSION_NUM < 180000
#define RelationGetPrimaryKeyIndex(relation, deferrable_ok) RelationGetPrimaryKeyIndex(relation)
#endif

/*
 * EnableDisableTrigger: since 16 it is asked whether partitions follow, as they do before,
 * and can be asked for the clones of one trigger only.
 */
#if PG_VERSION_NUM < 160000
#include "commands/trigger.h"
#define EnableDisableTrigger(relation, name, parent, state, skip_system, recurse, lock) \
	EnableDisableTrigger(relation, name, state, skip_system, lock)
#endif

/* Relation files have numbers of a type of their own, and a name for that, since 16. */
#if PG_VERSION_NUM < 160000
#define RelFileNumberIsValid(number) OidIsValid(number)
#endif

/*
 * ExecInsertIndexTuples: 14 took the ResultRelInfo and "update", 16 added
 * "only summarizing", 19 made flags of them.  Before 14 it finds the relation
 * in the EState.
 */
static inline List *
evs_insert_index_tuples(ResultRelInfo *relinfo, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(relinfo, estate, 0, slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(relinfo, slot, estate, false, false, NULL, NIL, false);
#elif PG_VERSION_NUM >= 140000
	return ExecInsertIndexTuples(relinfo, slot, estate, false, false, NULL, NIL);
#else
	estate->es_result_relation_info = relinfo;
	return ExecInsertIndexTuples(slot, estate, false, NULL, NIL);
#endif
}

#endif							/* EVS_COMPAT_H */
