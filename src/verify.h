/*
 * verify.h - what verify.c and verify_whole.c share.
 */
#ifndef EVS_VERIFY_H
#define EVS_VERIFY_H

#include "evsource.h"

#include "nodes/execnodes.h"
#include "utils/array.h"

#include "compare.h"
#include "projection.h"
#include "snapshots.h"

/* One call. */
typedef struct EvsVerification
{
	ReturnSetInfo *result;
	EvsProjection *projection;
	double		sample;			/* 0: all; up to 1: a fraction; above: a number */
	ArrayType  *ignored;
	int64		left;			/* differences that may still be reported */
} EvsVerification;

/* The event that a difference is told with. */
typedef struct EvsVerifyEvent
{
	int64		position;		/* 0: none */
	text	   *stream;			/* NULL: it is gone */
	int64		version;
	bool		is_missing;		/* what is stored is what there was before it */
} EvsVerifyEvent;

/* A row of the result. */
extern void evs_verify_put(EvsVerification *verification, const EvsDifference *difference,
						   const EvsVerifyEvent *event);

extern bool evs_verify_same_state(const EvsVerification *verification,
								  const EvsSnapshot *stored, const EvsSnapshot *computed);

/* All but a fold by stream. */
extern void evs_verify_whole(EvsVerification *verification);

#endif							/* EVS_VERIFY_H */
