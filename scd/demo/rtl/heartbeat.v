// Buffers bytes and sends them over a serial line.
module heartbeat (
    input wire clk,
    input wire rst,
    input wire push,
    input wire [7:0] data,
    output wire full,
    output wire line
);
    wire [7:0] next;
    wire empty;
    wire ready;

    fifo #(
        .WIDTH(8),
        .DEPTH_LOG2(4)
    ) buffer (
        .clk(clk),
        .rst(rst),
        .push(push),
        .in(data),
        .pop(ready),
        .out(next),
        .full(full),
        .empty(empty)
    );

    sender #(
        .DIVIDER(16)
    ) serial (
        .clk(clk),
        .rst(rst),
        .start(~empty),
        .data(next),
        .ready(ready),
        .line(line)
    );
endmodule
