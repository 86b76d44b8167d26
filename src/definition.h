/*
 * definition.h - what a projection is, from the parameters of an SQL call.
 */
#ifndef EVS_DEFINITION_H
#define EVS_DEFINITION_H

#include "evsource.h"
#include "parameters.h"
#include "projection.h"

/* A projection of this name in which nothing is given yet. */
extern EvsProjection *evs_definition_default(const char *name);

/*
 * Put the given parameters into a projection and see that the whole makes
 * sense and may be had by its owner.
 */
extern void evs_definition_apply(EvsProjection *projection,
								 const EvsParameters *parameters);

/*
 * Are they the same definition?  Do they make the same read model?  Do they say
 * the same of state versions?
 */
extern bool evs_definition_equal(const EvsProjection *a, const EvsProjection *b);
extern bool evs_definition_same_model(const EvsProjection *a, const EvsProjection *b);
extern bool evs_definition_same_versions(const EvsProjection *a, const EvsProjection *b);

#endif							/* EVS_DEFINITION_H */
