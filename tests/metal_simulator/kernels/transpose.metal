// Transposes a matrix, one tile of TILE x TILE elements per threadgroup. Through the tile, both
// the reads and the writes of neighbouring threads touch neighbouring elements.

threadgroup T tile[TILE][TILE + 1];  // the spare column keeps a column in different banks

int rows = x_shape[0];
int columns = x_shape[1];
int2 here = int2(thread_position_in_threadgroup.xy);
int2 corner = int2(threadgroup_position_in_grid.xy) * TILE;

// Read a tile of x, row by row.
int row = corner.y + here.y;
int column = corner.x + here.x;
if (row < rows && column < columns) {
    tile[here.y][here.x] = x[row * columns + column];
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// Write it to y, row by row: a row of y is a column of the tile.
int y_row = corner.x + here.y;
int y_column = corner.y + here.x;
if (y_row < columns && y_column < rows) {
    T value = tile[here.x][here.y];
    y[y_row * rows + y_column] = value;
}
