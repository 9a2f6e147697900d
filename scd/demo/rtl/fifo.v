// A first-in first-out buffer with a power of two of entries.
module fifo #(
    parameter WIDTH = 8,
    parameter DEPTH_LOG2 = 4
) (
    input wire clk,
    input wire rst,
    input wire push,
    input wire [WIDTH-1:0] in,
    input wire pop,
    output wire [WIDTH-1:0] out,
    output wire full,
    output wire empty
);
    reg [WIDTH-1:0] memory[0:(1<<DEPTH_LOG2)-1];
    reg [DEPTH_LOG2:0] head;
    reg [DEPTH_LOG2:0] tail;

    wire take = push & ~full;
    wire give = pop & ~empty;

    assign empty = head == tail;
    assign full = head == {~tail[DEPTH_LOG2], tail[DEPTH_LOG2-1:0]};
    assign out = memory[tail[DEPTH_LOG2-1:0]];

    always @(posedge clk)
        if (take) memory[head[DEPTH_LOG2-1:0]] <= in;

    always @(posedge clk)
        if (rst) head <= {(DEPTH_LOG2 + 1) {1'b0}};
        else if (take) head <= head + 1'b1;

    always @(posedge clk)
        if (rst) tail <= {(DEPTH_LOG2 + 1) {1'b0}};
        else if (give) tail <= tail + 1'b1;
endmodule
