/*
 * validate.h - what every event must satisfy, whichever way it comes in.
 */
#ifndef EVS_VALIDATE_H
#define EVS_VALIDATE_H

#include "evsource.h"

/* longest name of a stream or a type, in bytes: both are made to be indexed */
#define EVS_MAX_NAME	1024

/* Raise 22004 when NULL, 22023 when empty or longer than EVS_MAX_NAME. */
extern void evs_check_stream(const text *stream);
extern void evs_check_type(const text *type);

/* Raise 22004 when NULL. */
extern void evs_check_data(bool isnull);

/* Raise 22023 when it is neither NULL nor an object. */
extern void evs_check_metadata(Jsonb *metadata);

/* Raise 22023 when it can be the version of no type; return it as it is stored. */
extern int16 evs_check_schema_version(int version);

#endif							/* EVS_VALIDATE_H */
